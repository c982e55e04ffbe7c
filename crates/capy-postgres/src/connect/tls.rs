//! TLS: what each `sslmode` checks.
//!
//! `require` without a root certificate protects against listeners, not against impostors, as
//! libpq documents; `verify-ca` and `verify-full` check the chain, the latter also the name.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::settings::{ConnectSettings, SslMode};
use crate::PostgresError;

fn fail(problem: impl std::fmt::Display) -> PostgresError {
    PostgresError::Tls { problem: problem.to_string() }
}

/// The client side of TLS for these settings.
pub(super) fn client_config(settings: &ConnectSettings) -> Result<Arc<ClientConfig>, PostgresError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(fail)?;
    let checks_chain = matches!(settings.ssl_mode, SslMode::VerifyCa | SslMode::VerifyFull)
        || (settings.ssl_mode == SslMode::Require && settings.ssl_root_cert.is_some());
    let inner = if checks_chain {
        let roots = Arc::new(roots(settings)?);
        Some(WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build().map_err(fail)?)
    } else {
        None
    };
    let verifier = Verifier { provider, inner, name_matters: settings.ssl_mode == SslMode::VerifyFull };
    Ok(Arc::new(
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth(),
    ))
}

fn roots(settings: &ConnectSettings) -> Result<RootCertStore, PostgresError> {
    let mut roots = RootCertStore::empty();
    match &settings.ssl_root_cert {
        Some(path) => {
            let unreadable = |error| fail(format!("root certificate {}: {error}", path.display()));
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(e.to_string()))? {
                let certificate = certificate.map_err(|e| unreadable(e.to_string()))?;
                roots.add(certificate).map_err(|e| unreadable(e.to_string()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() { Err(fail("no root certificate to check the server's against")) } else { Ok(roots) }
}

/// Checks as much as the mode asks for.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    inner: Option<Arc<WebPkiServerVerifier>>,
    name_matters: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name_matters => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
