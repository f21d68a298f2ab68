use pgp::composed::{
    ArmorOptions, KeyType, SecretKeyParamsBuilder, SignedKeyDetails, SignedSecretKey, SubkeyParamsBuilder,
};
use pgp::packet::{KeyFlags, PublicKey, SignatureConfig, Subpacket, UserId};
use pgp::types::{PacketHeaderVersion, Password, SignedUser, SigningKey, Timestamp};
use proptest::prelude::*;
use rand::SeedableRng as _;

use super::*;

/// 2026-11-24, a time at which the tests are.
pub const NOW: u64 = 1_795_478_400;
/// When the keys of the tests were made, 100 days before.
const MADE: u64 = NOW - 100 * 86_400;

pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// A key pair with one subkey.
pub struct Pair(SignedSecretKey);

/// How the certificate of a [`Pair`] is made; the default is a good one.
#[derive(Clone)]
struct Form {
    hash: HashAlgorithm,
    can_sign: bool,
    /// Seconds after which the primary key expires, and the subkey.
    lifetime: u64,
    sub_lifetime: u64,
    has_back_signature: bool,
    revoked: Option<SignatureType>,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            hash: HashAlgorithm::Sha512,
            can_sign: true,
            lifetime: 0,
            sub_lifetime: 0,
            has_back_signature: true,
            revoked: None,
        }
    }
}

impl Pair {
    /// The same `seed` gives the same keys.
    pub fn generate(seed: u64) -> Self {
        Self::generate_as(KeyType::Ed25519Legacy, seed)
    }

    fn generate_as(kind: KeyType, seed: u64) -> Self {
        let made = timestamp(MADE);
        let mut sub = SubkeyParamsBuilder::default();
        sub.key_type(kind.clone()).can_sign(true).created_at(made);
        let mut params = SecretKeyParamsBuilder::default();
        params.key_type(kind).can_certify(true).can_sign(true).created_at(made);
        params.primary_user_id("Test <test@example.org>".into()).subkey(sub.build().unwrap());
        let random = rand::rngs::StdRng::seed_from_u64(seed);
        Self(params.build().unwrap().generate(random).unwrap())
    }

    pub fn armor(&self) -> String {
        self.armor_as(&Form::default())
    }

    fn armor_as(&self, form: &Form) -> String {
        let primary = self.public();
        let subkey = SignedPublicSubKey::new(self.sub().public_key().clone(), self.subkey_signatures(form));
        let revocations = (form.revoked == Some(SignatureType::KeyRevocation)).then(|| {
            let config = config(
                SignatureType::KeyRevocation,
                HashAlgorithm::Sha512,
                MADE,
                &self.0.primary_key,
                vec![],
            );
            config.sign_key(&self.0.primary_key, &Password::empty(), &primary).unwrap()
        });
        let users = vec![self.user(form)];
        let details = SignedKeyDetails::new(revocations.into_iter().collect(), vec![], users, vec![]);
        SignedPublicKey::new(primary, details, vec![subkey])
            .to_armored_string(ArmorOptions::default())
            .unwrap()
    }

    fn user(&self, form: &Form) -> SignedUser {
        let id = UserId::from_str(PacketHeaderVersion::default(), "Test <test@example.org>").unwrap();
        let sign = |kind, at, more| {
            let config = config(kind, form.hash, at, &self.0.primary_key, more);
            let key = &self.0.primary_key;
            config.sign_certification(key, &self.public(), &Password::empty(), Tag::UserId, &id).unwrap()
        };
        let more = vec![flags(form.can_sign), lifetime(form.lifetime)];
        // An older one, which allowed all, no longer counts.
        let old = sign(SignatureType::CertPositive, MADE, vec![flags(true), lifetime(0)]);
        let mut signatures = vec![old, sign(SignatureType::CertPositive, MADE + 1, more)];
        if form.revoked == Some(SignatureType::CertRevocation) {
            signatures.push(sign(SignatureType::CertRevocation, MADE + 2, vec![]));
        }
        SignedUser { id, signatures }
    }

    fn subkey_signatures(&self, form: &Form) -> Vec<Signature> {
        let (key, sub) = (&self.0.primary_key, self.sub());
        let mut more = vec![flags(form.can_sign), lifetime(form.sub_lifetime)];
        if form.has_back_signature {
            let back = config(SignatureType::KeyBinding, form.hash, MADE, sub, vec![]);
            let back =
                back.sign_primary_key_binding(sub, sub.public_key(), &Password::empty(), &self.public());
            more.push(SubpacketData::EmbeddedSignature(Box::new(back.unwrap())));
        }
        let mut kinds = vec![(SignatureType::SubkeyBinding, more)];
        if form.revoked == Some(SignatureType::SubkeyRevocation) {
            kinds.push((SignatureType::SubkeyRevocation, vec![]));
        }
        let sign = |(kind, more)| {
            let config = config(kind, form.hash, MADE, key, more);
            config.sign_subkey_binding(key, &self.public(), &Password::empty(), sub.public_key()).unwrap()
        };
        kinds.into_iter().map(sign).collect()
    }

    /// The text, clear-signed by the primary key.
    pub fn sign(&self, text: &str) -> String {
        clear_sign(text, &self.0.primary_key, HashAlgorithm::Sha256, NOW - 60, vec![])
    }

    fn sign_with_subkey(&self, text: &str) -> String {
        clear_sign(text, self.sub(), HashAlgorithm::Sha256, NOW - 60, vec![])
    }

    fn public(&self) -> PublicKey {
        self.0.primary_key.public_key().clone()
    }

    fn sub(&self) -> &pgp::packet::SecretSubkey {
        &self.0.secret_subkeys[0].key
    }
}

pub fn keyring(pair: &Pair) -> Keyring {
    keyring_of(&pair.armor())
}

fn keyring_of(armor: &str) -> Keyring {
    let mut keyring = Keyring { certificates: Vec::new() };
    keyring.add("test", armor.as_bytes()).unwrap();
    keyring
}

fn timestamp(seconds: u64) -> Timestamp {
    Timestamp::from_secs(u32::try_from(seconds).unwrap())
}

fn flags(can_sign: bool) -> SubpacketData {
    let mut flags = KeyFlags::default();
    flags.set_certify(true);
    flags.set_sign(can_sign);
    SubpacketData::KeyFlags(flags)
}

fn lifetime(seconds: u64) -> SubpacketData {
    SubpacketData::KeyExpirationTime(pgp::types::Duration::from_secs(u32::try_from(seconds).unwrap()))
}

fn config(
    kind: SignatureType,
    hash: HashAlgorithm,
    at: u64,
    key: &impl SigningKey,
    more: Vec<SubpacketData>,
) -> SignatureConfig {
    let mut config = SignatureConfig::v4(kind, key.algorithm(), hash);
    let own = [
        SubpacketData::SignatureCreationTime(timestamp(at)),
        SubpacketData::IssuerFingerprint(key.fingerprint()),
    ];
    config.hashed_subpackets =
        own.into_iter().chain(more).map(|data| Subpacket::regular(data).unwrap()).collect();
    config
}

fn clear_sign(
    text: &str,
    key: &impl SigningKey,
    hash: HashAlgorithm,
    at: u64,
    more: Vec<SubpacketData>,
) -> String {
    let config = config(SignatureType::Text, hash, at, key, more);
    let message = CleartextSignedMessage::new(text, config, key, &Password::empty()).unwrap();
    message.to_armored_string(ArmorOptions::default()).unwrap()
}

fn error(keyring: &Keyring, message: &str) -> String {
    format!("{:#}", keyring.signed_text(message.as_bytes(), now()).unwrap_err())
}

#[test]
fn a_text_signed_by_a_listed_key_is_given_as_it_was_signed() {
    let pair = Pair::generate(1);
    let keyring = keyring(&pair);
    let text = "Suite: stable\n- dashes\n-- more\nlast line\n";
    for message in
        [pair.sign(text), pair.sign_with_subkey(text), pair.sign(text).replace("stable\n", "stable \t\n")]
    {
        assert_eq!(keyring.signed_text(message.as_bytes(), now()).unwrap(), text);
    }
}

#[test]
fn an_altered_text_or_one_with_more_around_it_is_refused() {
    let pair = Pair::generate(1);
    let keyring = keyring(&pair);
    let good = pair.sign("Suite: stable\nDate: today\n");
    assert!(error(&keyring, &good.replace("stable", "unstable")).contains("the text is not what was signed"));
    for bad in [
        good.replace("today\n", "today\nMore: lines\n"),
        format!("Suite: other\n\n{good}"),
        format!("{good}\nSuite: other\n"),
        format!("{good}{good}"),
        good.replace("Hash: SHA256\n", "Hash: SHA256\nSuite: other\n"),
        good.replace("-----BEGIN PGP SIGNATURE-----", "-----BEGIN PGP PUBLIC KEY BLOCK-----"),
        good[..good.len() / 2].to_owned(),
        good[..good.len() - 40].to_owned(),
        "Suite: stable\n".to_owned(),
        String::new(),
    ] {
        error(&keyring, &bad);
    }
    assert!(error(&keyring, "Suite: stable\n").contains("the file is not clear-signed"));
    let no_signature = good.split("-----BEGIN PGP SIGNATURE").next().unwrap();
    assert!(error(&keyring, no_signature).contains("parsing the clear-signed file"));
}

#[test]
fn a_signature_of_a_key_that_is_not_listed_is_refused_by_its_name() {
    let (pair, other) = (Pair::generate(1), Pair::generate(2));
    let error = error(&keyring(&pair), &other.sign("text\n"));
    let fingerprint = other.public().fingerprint();
    assert_eq!(
        error,
        format!(
            "no good signature (the signature of {fingerprint:X}: made by a key that may not sign this suite)"
        )
    );
}

#[test]
fn one_good_signature_among_others_is_enough() {
    let (pair, other) = (Pair::generate(1), Pair::generate(2));
    let mut both = keyring(&other);
    both.add("second", pair.armor().as_bytes()).unwrap();
    assert!(both.signed_text(pair.sign("text\n").as_bytes(), now()).is_ok());
    assert!(both.signed_text(other.sign("text\n").as_bytes(), now()).is_ok());
    let signer = |text: &str| {
        let sign = |key| {
            config(SignatureType::Text, HashAlgorithm::Sha256, NOW - 60, key, vec![]).sign(
                key,
                &Password::empty(),
                text.as_bytes(),
            )
        };
        Ok(vec![sign(&other.0.primary_key)?, sign(&pair.0.primary_key)?])
    };
    let message = CleartextSignedMessage::new_many("text\n", signer).unwrap();
    let message = message.to_armored_string(ArmorOptions::default()).unwrap();
    assert_eq!(keyring(&pair).signed_text(message.as_bytes(), now()).unwrap(), "text\n");
}

#[test]
fn weak_old_early_and_conditional_signatures_are_refused() {
    let pair = Pair::generate(1);
    let keyring = keyring(&pair);
    let sign = |hash, at, more| clear_sign("text\n", &pair.0.primary_key, hash, at, more);
    let day = 86_400;
    let expires = SubpacketData::SignatureExpirationTime(pgp::types::Duration::from_secs(3600));
    for (message, wrong) in [
        (sign(HashAlgorithm::Sha256, NOW + 2 * day, vec![]), "made in the future, on 2026-11-26T00:00:00Z"),
        (sign(HashAlgorithm::Sha256, MADE - day, vec![]), "made before its key was"),
        (sign(HashAlgorithm::Sha256, NOW - day, vec![expires]), "expired on 2026-11-23T01:00:00Z"),
    ] {
        let error = error(&keyring, &message);
        assert!(error.contains(wrong), "{error} has not {wrong}");
    }
    let mut config = config(SignatureType::Text, HashAlgorithm::Sha256, NOW, &pair.0.primary_key, vec![]);
    let condition = SubpacketData::Experimental(101, vec![1].into());
    config.hashed_subpackets.push(Subpacket::critical(condition).unwrap());
    let message =
        CleartextSignedMessage::new("text\n", config, &pair.0.primary_key, &Password::empty()).unwrap();
    let message = message.to_armored_string(ArmorOptions::default()).unwrap();
    assert!(error(&keyring, &message).contains("it has a condition that is not understood"));
}

#[test]
fn sha1_counts_neither_over_a_text_nor_over_a_key() {
    // Of the kinds of key, only RSA signs a SHA-1 at all.
    let pair = Pair::generate_as(KeyType::Rsa(2048), 1);
    let good = clear_sign("text\n", &pair.0.primary_key, HashAlgorithm::Sha256, NOW, vec![]);
    let weak = clear_sign("text\n", &pair.0.primary_key, HashAlgorithm::Sha1, NOW, vec![]);
    let weak_form = Form { hash: HashAlgorithm::Sha1, ..Form::default() };
    assert!(keyring(&pair).signed_text(good.as_bytes(), now()).is_ok());
    assert!(error(&keyring(&pair), &weak).contains("made with SHA1, which can be forged"));
    let weakly_made = keyring_of(&pair.armor_as(&weak_form));
    assert!(error(&weakly_made, &good).contains("it has no valid signature of its own"));
}

#[test]
fn a_key_that_has_expired_was_revoked_or_may_not_sign_does_not_count() {
    let pair = Pair::generate(1);
    let good = Form::default();
    let day = 86_400;
    let (by_key, by_sub) = (pair.sign("text\n"), pair.sign_with_subkey("text\n"));
    for (form, message, wrong) in [
        (Form { lifetime: day, ..good.clone() }, &by_key, "it expired on 2026-08-17T00:00:00Z"),
        // What expires takes its subkeys along.
        (Form { lifetime: day, ..good.clone() }, &by_sub, "it expired on 2026-08-17T00:00:00Z"),
        (Form { sub_lifetime: day, ..good.clone() }, &by_sub, "it expired on 2026-08-17T00:00:00Z"),
        (Form { can_sign: false, ..good.clone() }, &by_key, "may not sign"),
        (Form { can_sign: false, ..good.clone() }, &by_sub, "may not sign"),
        (Form { has_back_signature: false, ..good.clone() }, &by_sub, "it has not agreed to its key"),
        (Form { revoked: Some(SignatureType::KeyRevocation), ..good.clone() }, &by_key, "it was revoked"),
        (Form { revoked: Some(SignatureType::KeyRevocation), ..good.clone() }, &by_sub, "it was revoked"),
        (Form { revoked: Some(SignatureType::SubkeyRevocation), ..good.clone() }, &by_sub, "it was revoked"),
        (
            Form { revoked: Some(SignatureType::CertRevocation), ..good.clone() },
            &by_key,
            "no valid signature",
        ),
    ] {
        let error = error(&keyring_of(&pair.armor_as(&form)), message);
        assert!(error.contains(wrong), "{error} has not {wrong}");
    }
    let long =
        keyring_of(&pair.armor_as(&Form { lifetime: 101 * day, sub_lifetime: 101 * day, ..good.clone() }));
    assert!(long.signed_text(by_key.as_bytes(), now()).is_ok());
    assert!(long.signed_text(by_sub.as_bytes(), now()).is_ok());
    // The subkey's end is not the key's.
    let sub_only = keyring_of(&pair.armor_as(&Form { sub_lifetime: day, ..good }));
    assert!(sub_only.signed_text(by_key.as_bytes(), now()).is_ok());
}

#[test]
fn a_subkey_bound_by_another_key_does_not_count() {
    let (pair, other) = (Pair::generate(1), Pair::generate(2));
    let mut certificate = SignedPublicKey::from_string(&pair.armor()).unwrap().0;
    certificate.public_subkeys = SignedPublicKey::from_string(&other.armor()).unwrap().0.public_subkeys;
    let keyring = keyring_of(&certificate.to_armored_string(ArmorOptions::default()).unwrap());
    let error = error(&keyring, &other.sign_with_subkey("text\n"));
    assert!(error.contains("it is not bound to its key by a valid signature"), "{error}");
}

#[test]
fn the_keys_of_the_repository_are_read_and_may_sign() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("keys");
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        let keyring = Keyring::read(&folder, std::slice::from_ref(&name)).unwrap();
        let (keys, unfit) = keyring.keys_at(NOW);
        assert!(!keys.is_empty() && unfit.is_empty(), "{name}: {unfit:?}");
    }
    let error = format!("{:#}", Keyring::read(&folder, &["none".into()]).unwrap_err());
    assert!(error.contains("reading the key file"), "{error}");
}

#[test]
fn a_file_without_a_key_is_refused() {
    let mut keyring = Keyring { certificates: Vec::new() };
    for armor in
        ["", "nonsense", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n"]
    {
        assert!(keyring.add("test", armor.as_bytes()).is_err(), "{armor}");
    }
}

#[test]
fn a_date_is_written_in_full() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (NOW, "2026-11-24T00:00:00Z"),
    ] {
        assert_eq!(Date(seconds).to_string(), text);
    }
}

proptest! {
    #[test]
    fn days_and_dates_are_the_reverse_of_each_other(days in 0_u64..1_000_000) {
        let (year, month, day) = civil_from_days(days);
        prop_assert_eq!(days_from_civil(year, month, day), Some(days));
    }

    #[test]
    fn a_changed_sign_anywhere_is_refused_or_changes_nothing(at in 0_usize..600, byte in 32_u8..127) {
        let pair = Pair::generate(1);
        let text = "Suite: stable\nDate: today\n";
        let mut message = pair.sign(text).into_bytes();
        let at = at % message.len();
        message[at] = byte;
        if let Ok(read) = keyring(&pair).signed_text(&message, now()) {
            prop_assert_eq!(read, text);
        }
    }
}
