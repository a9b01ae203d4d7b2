"""Asks an agent everything with dstack's Python SDK, and prints as JSON what the SDK made of the answers.

client.py PACKAGES ENDPOINT
"""

import datetime
import json
import site
import sys
import time

# Behind the standard library, of which one of the SDK's dependencies (asyncio) has the name.
site.addsitedir(sys.argv[1])

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
import dstack_sdk
from dstack_sdk import DstackClient, GetQuoteResponse, get_compose_hash, verify_env_encrypt_public_key
from dstack_sdk.dstack_client import __version__
from eth_keys import keys
from eth_utils import keccak

ATTESTATION = x509.ObjectIdentifier("1.3.6.1.4.1.62397.1.8")


def public_of(algorithm, key):
    if algorithm == "ed25519":
        return Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
    return keys.PrivateKey(key).public_key.to_compressed_bytes()


def key(client, path, purpose, algorithm):
    answer = client.get_key(path, purpose, algorithm)
    scalar, chain = answer.decode_key(), answer.decode_signature_chain()
    public = public_of(algorithm, scalar)
    message = keccak(f"{purpose}:{public.hex()}".encode())
    signer = keys.Signature(chain[0]).recover_public_key_from_msg_hash(message)
    # The key provider's signature over the app's key: of no provider, it is none that the SDK takes.
    vouched = verify_env_encrypt_public_key(public, chain[1], client.info().app_id, int(time.time()))
    return {
        "path": path,
        "purpose": purpose,
        "algorithm": algorithm,
        "key": scalar.hex(),
        "signature_chain": [signature.hex() for signature in chain],
        "public": public.hex(),
        "signer": signer.to_compressed_bytes().hex(),
        "vouched": vouched is not None,
    }


def octet_string(der):
    """The content of one OCTET STRING that is all there is."""
    assert der[0] == 4, "an OCTET STRING"
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    assert len(der) == start + length, "nothing behind it"
    return der[start:]


def tls(client, name, **options):
    answer = client.get_tls_key(**options)
    private = load_der_private_key(answer.as_uint8array(), None)
    leaf, authority = x509.load_pem_x509_certificates("\n".join(answer.certificate_chain).encode())
    leaf.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(authority)
    spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    mine = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        extension = octet_string(leaf.extensions.get_extension_for_oid(ATTESTATION).value.value).hex()
    except x509.ExtensionNotFound:
        extension = None
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return {
        "name": name,
        "key": answer.as_uint8array().hex(),
        "certificates": [one.public_bytes(Encoding.DER).hex() for one in (leaf, authority)],
        "spki": spki.hex(),
        "is_pair": mine == spki,
        "not_after": int((leaf.not_valid_after_utc - epoch).total_seconds()),
        "attestation": extension,
    }


def refused(call):
    """Whether the agent said no (what it says, this SDK keeps to itself)."""
    try:
        call()
    except dstack_sdk.dstack_client.httpx.HTTPStatusError as error:
        return error.response.status_code
    return None


def replay(log):
    return [register for _, register in sorted(log.replay_rtmrs().items())]


def main():
    client = DstackClient(sys.argv[2], timeout=60)
    info, quote = client.info(), client.get_quote("casemate")
    whole = json.dumps([event.model_dump() for event in info.tcb_info.event_log])
    seen = {
        "client": __version__,
        "reachable": client.is_reachable(),
        "version": client.version().model_dump(),
        "info": info.model_dump(),
        "compose_hash": get_compose_hash(json.loads(info.tcb_info.app_compose)),
        "quote": {
            "quote": quote.decode_quote().hex(),
            "report_data": quote.report_data,
            "vm_config": quote.vm_config,
            "event_log": [event.model_dump() for event in quote.decode_event_log()],
        },
        "replayed": replay(quote),
        "replayed_whole": replay(GetQuoteResponse(quote=quote.quote, event_log=whole)),
        "keys": [
            key(client, "wallet", "signing", "secp256k1"),
            key(client, "wallet", "other", "ed25519"),
            key(client, "another", "", "secp256k1"),
        ],
        "tls": [
            tls(client, "server", subject="web", alt_names=["web.internal"]),
            tls(client, "ra", subject="mesh", usage_ra_tls=True, usage_client_auth=True, not_after=4_000_000_000),
        ],
        "refused": {
            "attest": refused(lambda: client.attest("casemate")),
            "sign": refused(lambda: client.sign("ed25519", "casemate")),
            "emit_event": refused(lambda: client.emit_event("casemate", "payload")),
        },
    }
    json.dump(seen, sys.stdout)


main()
