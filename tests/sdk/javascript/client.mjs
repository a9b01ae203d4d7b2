// Asks an agent everything with dstack's JavaScript SDK, and prints as JSON what the SDK made of the answers.
//
//     client.mjs PACKAGES ENDPOINT

import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [packages, endpoint] = process.argv.slice(2);
const require = createRequire(join(packages, 'package.json'));
const { DstackClient, getComposeHash, verifyEnvEncryptPublicKey } = require('@phala/dstack-sdk');
const { ed25519 } = require('@noble/curves/ed25519');
const { secp256k1 } = require('@noble/curves/secp256k1');
const { keccak_256 } = require('@noble/hashes/sha3');
const { Bytes, Enum, Struct, Vector, _void, str, u32 } = require('scale-ts');

const hex = (bytes) => Buffer.from(bytes).toString('hex');

// dstack's `VersionedAttestation` version 0 (dstack-attest/src/attestation.rs, 0.5.x) for a reader of SCALE that is not ours.
const bytes = Bytes();
const event = Struct({ imr: u32, event_type: u32, digest: bytes, event: str, event_payload: bytes });
const attestation = Enum({
    V0: Struct({
        quote: Enum({ DstackTdx: Struct({ quote: bytes, event_log: Vector(event) }) }),
        runtime_events: Vector(Struct({ event: str, payload: bytes })),
        report_data: Bytes(64),
        config: str,
        report: _void,
    }),
});

function decoded(content) {
    // A copy: the reader takes the whole of the memory that a view is of.
    const { value } = attestation.dec(Uint8Array.from(content));
    // It reads no further than it must: what is behind shows when it is written again.
    if (hex(attestation.enc({ tag: 'V0', value })) !== hex(content)) throw new Error('not all of it was read');
    const tdx = value.quote.value;
    return {
        quote: hex(tdx.quote),
        event_log: tdx.event_log.map((one) => ({
            ...one,
            digest: hex(one.digest),
            event_payload: hex(one.event_payload),
        })),
        runtime_events: value.runtime_events.map((one) => ({ event: one.event, payload: hex(one.payload) })),
        report_data: hex(value.report_data),
        config: value.config,
    };
}

// The element of DER at an offset, with its content and its end.
function element(der, at) {
    let length = der[at + 1];
    let start = at + 2;
    if (length & 0x80) {
        const count = length & 0x7f;
        length = der.readUIntBE(start, count);
        start += count;
    }
    return { tag: der[at], content: der.subarray(start, start + length), end: start + length };
}

// The octets of extension 1.3.6.1.4.1.62397.1.8: OID, then OCTET STRING around OCTET STRING (no criticality).
function extension(der) {
    const oid = Buffer.from('060a2b0601040183e73d0108', 'hex');
    const at = der.indexOf(oid);
    if (at < 0) return null;
    if (der.indexOf(oid, at + 1) >= 0) throw new Error('the extension is there twice');
    const outer = element(der, at + oid.length);
    const inner = element(outer.content, 0);
    if (outer.tag !== 4 || inner.tag !== 4 || inner.end !== outer.content.length) throw new Error('wrapped otherwise');
    return inner.content;
}

async function key(client, path, purpose, algorithm) {
    const answer = await client.getKey(path, purpose, algorithm);
    const [byApp, byProvider] = answer.signature_chain;
    const curve = algorithm === 'ed25519' ? ed25519 : secp256k1;
    const publicKey = curve.getPublicKey(answer.key);
    const message = keccak_256(new TextEncoder().encode(`${purpose}:${hex(publicKey)}`));
    const signature = secp256k1.Signature.fromCompact(byApp.slice(0, 64)).addRecoveryBit(byApp[64]);
    const now = Math.floor(Date.now() / 1000);
    const { app_id } = await client.info();
    return {
        path,
        purpose,
        algorithm,
        key: hex(answer.key),
        signature_chain: answer.signature_chain.map(hex),
        public: hex(publicKey),
        signer: hex(signature.recoverPublicKey(message).toRawBytes(true)),
        // The key provider's signature over the app's key: of no provider, it is none that the SDK takes.
        vouched: verifyEnvEncryptPublicKey(publicKey, byProvider, app_id, now) !== null,
    };
}

async function tls(client, name, options) {
    const answer = await client.getTlsKey(options);
    const [leaf, authority] = answer.certificate_chain.map((pem) => new X509Certificate(pem));
    if (!leaf.checkIssued(authority) || !leaf.verify(authority.publicKey)) throw new Error('not issued by its CA');
    if (!authority.verify(authority.publicKey)) throw new Error('the CA is not its own issuer');
    const der = Buffer.from(answer.asUint8Array());
    const mine = createPublicKey(createPrivateKey({ key: der, format: 'der', type: 'pkcs8' }));
    const spki = { format: 'der', type: 'spki' };
    const content = extension(leaf.raw);
    return {
        name,
        key: hex(der),
        certificates: [leaf, authority].map((one) => hex(one.raw)),
        spki: hex(leaf.publicKey.export(spki)),
        is_pair: leaf.checkPrivateKey(createPrivateKey(answer.key)) && mine.equals(leaf.publicKey),
        not_after: Date.parse(leaf.validTo) / 1000,
        attestation: content && hex(content),
        decoded: content && decoded(content),
    };
}

async function refused(call) {
    try {
        return await call().then(() => null);
    } catch (error) {
        return error.message;
    }
}

// The SDK replays only the log of an answer: it is given an answer with this log.
async function replayed(log) {
    const folder = mkdtempSync(join(tmpdir(), 'casemate-sdk-'));
    const server = http.createServer((_, response) => {
        const body = JSON.stringify({ quote: '', event_log: JSON.stringify(log) });
        response.writeHead(200, { 'Content-Length': Buffer.byteLength(body), Connection: 'close' }).end(body);
    });
    try {
        const socket = join(folder, 'socket');
        await new Promise((ready) => server.listen(socket, ready));
        return (await new DstackClient(socket).getQuote('')).replayRtmrs();
    } finally {
        server.close();
        rmSync(folder, { recursive: true });
    }
}

// Its patience is half a second, which a busy machine may need more than once.
async function reachable(client) {
    for (let tries = 0; tries < 60; tries += 1) if (await client.isReachable()) return true;
    return false;
}

const client = new DstackClient(endpoint);
const info = await client.info();
const quote = await client.getQuote('casemate');
const { __name__, ...version } = await client.version();
const manifest = join(packages, 'node_modules/@phala/dstack-sdk/package.json');
const seen = {
    client: JSON.parse(readFileSync(manifest, 'utf8')).version,
    reachable: await reachable(client),
    version,
    info,
    compose_hash: getComposeHash(JSON.parse(info.tcb_info.app_compose)),
    quote: {
        quote: hex(Buffer.from(quote.quote, 'hex')),
        report_data: quote.report_data,
        vm_config: quote.vm_config,
        event_log: JSON.parse(quote.event_log),
    },
    replayed: quote.replayRtmrs(),
    replayed_whole: await replayed(info.tcb_info.event_log),
    keys: [
        await key(client, 'wallet', 'signing', 'secp256k1'),
        await key(client, 'wallet', 'other', 'ed25519'),
        await key(client, 'another', '', 'secp256k1'),
    ],
    tls: [
        await tls(client, 'server', { subject: 'web', altNames: ['web.internal'] }),
        await tls(client, 'ra', { subject: 'mesh', usageRaTls: true, usageClientAuth: true, notAfter: 4_000_000_000 }),
    ],
    refused: { attest: await refused(() => client.attest('casemate')) },
};
console.log(JSON.stringify(seen));
