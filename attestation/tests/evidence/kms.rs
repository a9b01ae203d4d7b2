//! Apps of a dstack KMS: chains as it signs them (dstack reference 2.6), evidence of the simulated TEE.

use casemate_measure::{AppId, ComposeHash, KeyProvider, LaunchRegisters, Register, RuntimeEvent};
use casemate_verify::{
    Class, Evidence, KmsRoot, Policy, PolicyApp, PolicyParts, Presented, ProviderClaim, Verdict, challenge,
    ratls,
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
};

use crate::machine::{Machine, NOW, boot_events, image, trusting_verifier};

const DOCUMENT: &[u8] = b"an app's document";
pub(crate) const APP: AppId = AppId([0x77; 20]);

pub(crate) struct Kms {
    root: Certificate,
    root_params: CertificateParams,
    root_key: KeyPair,
}

fn ca(name: &str, pathlen: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(pathlen));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn claim(oid: &[u64], content: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(oid, ratls::extension_value(content))
}

impl Kms {
    pub(crate) fn new() -> Self {
        let (root_params, root_key) = (ca("Dstack KMS CA", 1), KeyPair::generate().unwrap());
        Self { root: root_params.clone().self_signed(&root_key).unwrap(), root_params, root_key }
    }

    pub(crate) fn id(&self) -> Vec<u8> {
        self.root_key.subject_public_key_info()
    }

    /// The policy's root.
    pub(crate) fn trusted(&self) -> KmsRoot {
        KmsRoot { name: "ours".into(), certificate: self.root.pem() }
    }

    /// A machine whose boot names this KMS.
    pub(crate) fn machine(&self, provider: &KeyProvider) -> Machine {
        self.machine_on(image(), provider)
    }

    fn machine_on(&self, launch: LaunchRegisters, provider: &KeyProvider) -> Machine {
        let mut events = boot_events(&ComposeHash::of(DOCUMENT));
        events[1] = RuntimeEvent::new("app-id", APP.0);
        events[5] = RuntimeEvent::new("key-provider", provider.event_payload());
        Machine::boot(DOCUMENT, launch).with_events(events)
    }

    /// What that machine shows: leaf, app CA, root.
    pub(crate) fn evidence(&self, machine: &Machine, app_id: AppId, usage: &str) -> Evidence {
        let app_key = KeyPair::generate().unwrap();
        let root = Issuer::from_params(&self.root_params, &self.root_key);
        let app_params = ca("Dstack App CA", 0);
        let app_ca = app_params.clone().signed_by(&app_key, &root).unwrap();

        let key = KeyPair::generate().unwrap();
        let attestation = machine.attest(ratls::report_data_for_key(&key.subject_public_key_info()));
        let mut leaf = CertificateParams::default();
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        leaf.custom_extensions = vec![
            claim(ratls::APP_ID_OID, &app_id.0),
            claim(ratls::USAGE_OID, usage.as_bytes()),
            claim(ratls::ATTESTATION_OID, &attestation.encode_v0()),
        ];
        let leaf = leaf.signed_by(&key, &Issuer::from_params(&app_params, &app_key)).unwrap();
        let chain = [leaf.der().to_vec(), app_ca.der().to_vec(), self.root.der().to_vec()];
        Evidence::Certificate(Box::new(ratls::from_chain(&chain).unwrap()))
    }
}

/// A policy without images: it takes the judgement of these.
fn policy(kms: &[KmsRoot], provider: &[u8]) -> Policy {
    let app = PolicyApp { name: "app".into(), app_id: APP, compose_hash: None, tags: Vec::new() };
    let provider = ProviderClaim { name: "kms".into(), id: hex::encode(provider) };
    let parts = PolicyParts {
        kms: kms.to_vec(),
        apps: vec![app],
        key_providers: vec![provider],
        ..PolicyParts::default()
    };
    Policy::new("test", parts).unwrap()
}

fn verdict(kms: &[KmsRoot], provider: &[u8], evidence: &Evidence) -> Vec<Class> {
    classes(policy(kms, provider).verdict(&trusting_verifier(), &Presented::from(evidence), NOW))
}

fn classes(verdict: Verdict) -> Vec<Class> {
    match verdict {
        Verdict::Trusted(_) => Vec::new(),
        Verdict::NotTrusted { reasons, .. } => reasons.into_iter().map(|reason| reason.class).collect(),
        Verdict::Undecided(error) => panic!("{error}"),
    }
}

#[test]
fn a_kms_may_vouch_for_an_image() {
    let kms = Kms::new();
    let machine = kms.machine(&KeyProvider::Kms(kms.id()));
    let evidence = kms.evidence(&machine, APP, "app:custom");
    assert_eq!(verdict(&[kms.trusted()], &kms.id(), &evidence), []);
}

#[test]
fn another_kms_may_not() {
    let (kms, other) = (Kms::new(), Kms::new());
    let machine = kms.machine(&KeyProvider::Kms(kms.id()));
    let evidence = kms.evidence(&machine, APP, "app:custom");
    assert_eq!(verdict(&[other.trusted()], &kms.id(), &evidence), [Class::Image]);
    assert_eq!(verdict(&[other.trusted()], &other.id(), &evidence), [Class::Image, Class::KeyProvider]);

    // A genuine TD extends the KMS's name and signs with a CA of its own.
    let forged = other.evidence(&machine, APP, "app:custom");
    assert_eq!(verdict(&[kms.trusted()], &kms.id(), &forged), [Class::Image]);
}

/// The chain is the KMS's, and says something else than the boot does.
#[test]
fn the_issuers_claims_must_be_the_boots() {
    let kms = Kms::new();
    let machine = kms.machine(&KeyProvider::Kms(kms.id()));
    let trusted = [kms.trusted()];
    let other_app = kms.evidence(&machine, AppId([0x78; 20]), "app:custom");
    assert_eq!(verdict(&trusted, &kms.id(), &other_app), [Class::Image]);
    let other_usage = kms.evidence(&machine, APP, "kms:rpc");
    assert_eq!(verdict(&trusted, &kms.id(), &other_usage), [Class::Image]);
    let no_provider = kms.machine(&KeyProvider::None);
    let evidence = kms.evidence(&no_provider, APP, "app:custom");
    assert_eq!(verdict(&trusted, &kms.id(), &evidence), [Class::Identity]);
}

/// A TD of the attacker's, with the key of a victim's certificate, answers the challenge: the KMS judged the victim's image.
#[test]
fn a_kms_vouches_for_the_launch_that_it_judged_and_no_other() {
    let kms = Kms::new();
    let provider = KeyProvider::Kms(kms.id());
    let victim = kms.machine(&provider);
    let evidence = kms.evidence(&victim, APP, "app:custom");
    let Evidence::Certificate(certificate) = &evidence else { panic!("a certificate") };
    let own_kernel = LaunchRegisters { rtmr2: Register::digest(b"the attacker's own"), ..image() };
    let attacker = kms.machine_on(own_kernel, &provider);

    let policy = policy(&[kms.trusted()], &kms.id());
    let (nonce, exporter) = ([7; 32], [8; 32]);
    let report_data = challenge::report_data(&nonce, &exporter, &certificate.spki_der);
    let answered_by = |machine: &Machine| {
        let answer = machine.attest(report_data);
        let peer = trusting_verifier()
            .verify_challenge(&certificate.chain[0], &answer, &nonce, &exporter, NOW)
            .unwrap();
        classes(policy.verdict_on(Ok(policy.vouched(peer, certificate, NOW)), NOW))
    };
    assert_eq!(answered_by(&victim), []);
    assert_eq!(answered_by(&attacker), [Class::Image]);
}

/// What one policy's KMS vouched for is nothing to another policy.
#[test]
fn a_note_of_another_policys_kms_counts_for_nothing() {
    let (kms, other) = (Kms::new(), Kms::new());
    let machine = kms.machine(&KeyProvider::Kms(kms.id()));
    let evidence = kms.evidence(&machine, APP, "app:custom");
    let Evidence::Certificate(certificate) = &evidence else { panic!("a certificate") };
    let peer = trusting_verifier().verify_certificate(&certificate.chain[0], NOW).unwrap();
    let noted = policy(&[kms.trusted()], &kms.id()).vouched(peer, certificate, NOW);
    assert_eq!(classes(policy(&[kms.trusted()], &kms.id()).verdict_on(Ok(noted.clone()), NOW)), []);
    assert_eq!(classes(policy(&[other.trusted()], &kms.id()).verdict_on(Ok(noted), NOW)), [Class::Image]);
}
