//! The clock of etcd. Its gRPC interface does not return the time, but every HTTP response has a date (RFC 9110
//! section 6.6.1), to the second.

use hyper::header::DATE;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::options::{Endpoint, Target};
use crate::error::chain;
use crate::http;

const LIMIT: Duration = Duration::from_secs(2);

type AnyError = Box<dyn Error + Send + Sync>;

/// Returns by how many seconds the clock of the first endpoint that responds is ahead of that of this host.
pub(super) async fn ahead_secs(target: &Target) -> Result<i64, String> {
    let mut reason = "no endpoint".to_owned();
    for endpoint in &target.endpoints {
        let before = now();
        match timeout(LIMIT, date(target, endpoint)).await {
            // It was read at some time between request and response.
            Ok(Ok(date)) => {
                let (earliest, latest) = (date - now(), date - before);
                return Ok(if earliest > 0 { earliest } else { latest.min(0) });
            }
            Ok(Err(error)) => reason = format!("{}: {}", endpoint.url, chain(error.as_ref())),
            Err(_) => reason = format!("{}: no answer in {} s", endpoint.url, LIMIT.as_secs()),
        }
    }
    Err(reason)
}

/// Reads the clock of an endpoint, in seconds since 1970.
async fn date(target: &Target, endpoint: &Endpoint) -> Result<i64, AnyError> {
    let authority = endpoint.url.split_once("://").map_or(endpoint.url.as_str(), |(_, rest)| rest);
    let stream = TcpStream::connect(authority).await?;
    let date = if endpoint.tls {
        let name = ServerName::try_from(endpoint.host.clone())?;
        let connector = TlsConnector::from(Arc::new(tls(target)?));
        date_over(connector.connect(name, stream).await?, authority).await?
    } else {
        date_over(stream, authority).await?
    };
    Ok(seconds(httpdate::parse_http_date(&date)?))
}

/// Requests the version, which needs no login, for its date.
async fn date_over(stream: impl AsyncRead + AsyncWrite + Unpin, authority: &str) -> Result<String, AnyError> {
    let response = http::get(stream, authority, "/version").await?;
    let date = response.headers().get(DATE).ok_or("its response has no date")?;
    Ok(date.to_str()?.to_owned())
}

/// The same as for the client of etcd: the CA of the options or those of the host, and the client certificate.
fn tls(target: &Target) -> Result<ClientConfig, AnyError> {
    let mut roots = RootCertStore::empty();
    match &target.cafile {
        Some(file) => {
            for certificate in CertificateDer::pem_file_iter(file)? {
                roots.add(certificate?)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    Ok(match &target.identity {
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
        }
        None => config.with_no_client_auth(),
    })
}

fn now() -> i64 {
    seconds(SystemTime::now())
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
