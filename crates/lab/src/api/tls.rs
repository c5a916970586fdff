//! The lab's certificates: one authority, one certificate for the server, one for whoever uses the lab.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::StartError;

/// Certificates and keys, as PEM.
#[derive(Clone)]
pub(crate) struct Pki {
    authority: String,
    server: String,
    server_key: String,
    client: String,
    client_key: String,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pki").finish_non_exhaustive()
    }
}

const FILES: [&str; 5] = ["ca.crt", "server.crt", "server.key", "client.crt", "client.key"];

impl Pki {
    /// Makes an authority and certificates for a server of these names and addresses.
    pub(crate) fn generate(names: &[String]) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "ringfence-lab");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let sign = |mut params: CertificateParams, name: &str, usage: ExtendedKeyUsagePurpose| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &authority)?;
            Ok::<_, rcgen::Error>((certificate.pem(), key.serialize_pem()))
        };
        let server = CertificateParams::new(names)?;
        let (server, server_key) = sign(server, "ringfence-lab-api", ExtendedKeyUsagePurpose::ServerAuth)?;
        let mut client = CertificateParams::new(Vec::new())?;
        client.distinguished_name.push(DnType::OrganizationName, "system:masters");
        let (client, client_key) = sign(client, "ringfence-admin", ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Self { authority: authority.pem(), server, server_key, client, client_key })
    }

    /// Those of a directory, made there at first.
    pub(crate) fn open(directory: &Path, names: &[String]) -> Result<Self, StartError> {
        let failed = |error| StartError::State { path: directory.to_owned(), error };
        let wanted = names.join("\n");
        let names_file = directory.join("names");
        let same = fs::read_to_string(&names_file).is_ok_and(|known| known == wanted);
        if let Some(pki) = same.then(|| Self::read(directory).ok()).flatten() {
            return Ok(pki);
        }
        let pki = Self::generate(names)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        pki.write(directory).map_err(failed)?;
        fs::write(names_file, wanted).map_err(failed)?;
        Ok(pki)
    }

    fn read(directory: &Path) -> io::Result<Self> {
        let file = |name: &str| fs::read_to_string(directory.join(name));
        let [authority, server, server_key, client, client_key] = FILES;
        Ok(Self {
            authority: file(authority)?,
            server: file(server)?,
            server_key: file(server_key)?,
            client: file(client)?,
            client_key: file(client_key)?,
        })
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        let contents = [&self.authority, &self.server, &self.server_key, &self.client, &self.client_key];
        for (name, content) in FILES.iter().zip(contents) {
            let mut options = fs::OpenOptions::new();
            let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(directory.join(name))?;
            io::Write::write_all(&mut file, content.as_bytes())?;
        }
        Ok(())
    }

    /// The authority's certificate.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// TLS for the server: clients show a certificate of the authority, or are anonymous.
    pub(crate) fn server_config(&self) -> Result<rustls::ServerConfig, StartError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes())?)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
        let chain = vec![CertificateDer::from_pem_slice(self.server.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(self.server_key.as_bytes())?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// A kubeconfig for the server at an address.
    pub(crate) fn kubeconfig(&self, server: &str) -> String {
        let data = |pem: &str| STANDARD.encode(pem);
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: ringfence-lab\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {}\nusers:\n- name: ringfence-admin\n  user:\n    client-certificate-data: \
             {}\n    client-key-data: {}\ncontexts:\n- name: ringfence-lab\n  context:\n    cluster: \
             ringfence-lab\n    user: ringfence-admin\ncurrent-context: ringfence-lab\n",
            data(&self.authority),
            data(&self.client),
            data(&self.client_key),
        )
    }
}
