//! Authorities and certificates made for one test. Knows nothing of sessions.

use rcgen::*;
use std::fs;
use tempfile::TempDir;

/// Whoever signs.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// Who is signed.
pub struct Identity {
    pub name: &'static str,
    pub server: bool,
    pub serial: Option<u64>,
    /// From the beginning of one year to that of the other.
    pub years: (i32, i32),
}

impl Identity {
    pub fn server(name: &'static str) -> Self {
        Self { name, server: true, serial: None, years: (2001, 3001) }
    }

    pub fn client(name: &'static str) -> Self {
        Self { server: false, ..Self::server(name) }
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub fn certificate(&self) -> String {
        self.certificate.pem()
    }

    /// A list that has one certificate on it.
    pub fn revoke(&self, serial: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(3000, 1, 1),
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn sign(&self, identity: &Identity) -> (String, String) {
        let mut params = CertificateParams::new(vec![identity.name.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, identity.name);
        let purpose = match identity.server {
            true => ExtendedKeyUsagePurpose::ServerAuth,
            false => ExtendedKeyUsagePurpose::ClientAuth,
        };
        params.extended_key_usages = vec![purpose];
        params.serial_number = identity.serial.map(Into::into);
        params.not_before = date_time_ymd(identity.years.0, 1, 1);
        params.not_after = date_time_ymd(identity.years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// The directory of somebody with a certificate; a client's certificate is there under both names.
pub fn directory(authority: &Authority, identity: Identity) -> TempDir {
    let dir = TempDir::new().unwrap();
    let (certificate, key) = authority.sign(&identity);
    fs::write(dir.path().join("ca-cert.pem"), authority.certificate()).unwrap();
    for role in ["server", "client"] {
        fs::write(dir.path().join(format!("{role}-cert.pem")), &certificate).unwrap();
        fs::write(dir.path().join(format!("{role}-key.pem")), &key).unwrap();
    }
    dir
}
