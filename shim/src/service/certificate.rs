//! Until when the certificates hold by which host and card know each other.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Serialize;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::report::Report;
use crate::config::Tls;

/// A certificate that ends in fewer days than this is worth telling.
const SOON: u64 = 30;

/// The end of a file's certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Expiry {
    /// The file.
    pub file: String,
    /// When the first of its certificates ends: seconds since 1970.
    pub at: i64,
    /// How many whole days are left; none where it has ended.
    pub days: Option<u64>,
}

/// Reads when the certificates in a PEM file end.
pub fn expiry(path: &Path, now: SystemTime) -> Result<Expiry> {
    let reading = || format!("reading `{}`", path.display());
    let text = fs::read(path).with_context(reading)?;
    let mut ends = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| anyhow!("{error}")).with_context(reading)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| anyhow!("it holds something else than a certificate: {error}"))
            .with_context(reading)?;
        ends.push(parsed.validity().not_after.timestamp());
    }
    let at =
        ends.into_iter().min().with_context(|| format!("there is no certificate in `{}`", path.display()))?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let left = u64::try_from(at).unwrap_or_default().checked_sub(now).filter(|left| *left > 0);
    Ok(Expiry { file: path.display().to_string(), at, days: left.map(|left| left / 86_400) })
}

/// Looks at all files of a pairing.
pub fn look(tls: &Tls, now: SystemTime, report: &mut Report) {
    for path in [&tls.certificate, &tls.ca] {
        report.try_to(|report| {
            let Expiry { file, days, .. } = expiry(path, now)?;
            match days {
                None => report.wrong(format!("`{file}` has expired")),
                Some(days) if days < SOON => {
                    report.wrong(format!("`{file}` expires in {days} days"));
                }
                Some(days) => report.found(format!("`{file}` holds for {days} days")),
            }
            Ok(())
        });
    }
    report.try_to(|report| {
        let shown = tls.key.display();
        let mode = fs::metadata(&tls.key).with_context(|| format!("looking at `{shown}`"))?;
        let mode = mode.permissions().mode() & 0o777;
        let others = mode & 0o077;
        ensure!(others == 0, "others than root can read the private key `{shown}` (mode {mode:04o})");
        report.found(format!("`{shown}` is root's alone"));
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a pairing's files; the certificate ends with the year 2030.
    fn pairing() -> (tempfile::TempDir, Tls) {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["host".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 12, 31);
        let certificate = params.self_signed(&key).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let tls = Tls {
            ca: file("ca.pem", &certificate.pem()),
            certificate: file("host.pem", &certificate.pem()),
            key: file("host.key", &key.serialize_pem()),
            name: None,
        };
        (folder, tls)
    }

    fn at(year: i32, month: u8, day: u8) -> SystemTime {
        rcgen::date_time_ymd(year, month, day).into()
    }

    fn looked(tls: &Tls, now: SystemTime) -> Report {
        let mut report = Report::default();
        look(tls, now, &mut report);
        report
    }

    #[test]
    fn an_end_is_told_in_time() {
        let (_folder, tls) = pairing();
        assert_eq!(looked(&tls, at(2030, 6, 1)).trouble(), "");
        assert!(looked(&tls, at(2030, 12, 24)).wrong[0].ends_with("host.pem` expires in 7 days"));
        assert!(looked(&tls, at(2031, 1, 1)).wrong[0].ends_with("host.pem` has expired"));
    }

    #[test]
    fn a_key_that_others_can_read_is_told() {
        let (_folder, tls) = pairing();
        fs::set_permissions(&tls.key, fs::Permissions::from_mode(0o644)).unwrap();
        let report = looked(&tls, at(2030, 6, 1));
        assert!(report.wrong[0].ends_with("host.key` (mode 0644)"), "{report:?}");
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        let (folder, tls) = pairing();
        fs::write(&tls.certificate, "no PEM").unwrap();
        fs::write(&tls.ca, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        fs::remove_file(&tls.key).unwrap();
        let report = looked(&tls, at(2030, 6, 1));
        let told = report.wrong.join("\n").replace(&folder.path().display().to_string(), "");
        insta::assert_snapshot!(told, @r#"
        there is no certificate in `/host.pem`
        reading `/ca.pem`: it holds something else than a certificate: Parsing Error: Der(UnexpectedTag { expected: Some(Tag(16)), actual: Tag(0) })
        looking at `/host.key`: No such file or directory (os error 2)
        "#);
    }
}
