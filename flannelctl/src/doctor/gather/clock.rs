//! The clock of etcd. Its gRPC interface does not tell the time, but every answer over HTTP has a date (RFC 9110
//! section 6.6.1), to the second.

use flannel_core::error::chain;
use flanneld::store::etcd::{Endpoint, EtcdOptions};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::node::daemon::exchange;

const LIMIT: Duration = Duration::from_secs(2);

/// By how many seconds the clock of the first endpoint that answers is ahead of ours.
pub(super) async fn ahead(etcd: &EtcdOptions) -> Result<i64, String> {
    let mut reason = "no endpoint".to_owned();
    for endpoint in etcd.endpoints().map_err(|error| error.to_string())? {
        match ask(etcd, &endpoint).await {
            Ok(ahead) => return Ok(ahead),
            Err(why) => reason = format!("{}: {why}", endpoint.url),
        }
    }
    Err(reason)
}

async fn ask(etcd: &EtcdOptions, endpoint: &Endpoint) -> Result<i64, String> {
    let before = now();
    let answer = match timeout(LIMIT, version(etcd, endpoint)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(chain(error.as_ref())),
        Err(_) => return Err(format!("no answer in {} s", LIMIT.as_secs())),
    };
    let date = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| seconds_of(value.trim()))?
    });
    let theirs = date.ok_or_else(|| "its answer has no date".to_owned())?;
    // It was written at some time between question and answer.
    let (earliest, latest) = (theirs - now(), theirs - before);
    Ok(if earliest > 0 { earliest } else { latest.min(0) })
}

/// The answer of an endpoint to a question that anybody may ask.
async fn version(etcd: &EtcdOptions, endpoint: &Endpoint) -> Result<String, Box<dyn Error>> {
    const PATH: &str = "/version";
    let authority = endpoint.url.split_once("://").map_or(endpoint.url.as_str(), |(_, rest)| rest);
    let stream = TcpStream::connect(authority).await?;
    if !endpoint.tls {
        return Ok(exchange(stream, PATH).await?);
    }
    let name = ServerName::try_from(endpoint.host.clone())?;
    let stream = TlsConnector::from(Arc::new(tls(etcd)?)).connect(name, stream).await?;
    Ok(exchange(stream, PATH).await?)
}

/// As the client of etcd has it: the CA that is named or those of the host, and the certificate of the client.
fn tls(etcd: &EtcdOptions) -> Result<ClientConfig, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    match &etcd.cafile {
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
    Ok(match (&etcd.certfile, &etcd.keyfile) {
        (Some(certificate), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
        }
        _ => config.with_no_client_auth(),
    })
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn seconds_of(date: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = date.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words[..] else { return None };
    let month = i64::try_from(MONTHS.iter().position(|name| *name == month)?).ok()?;
    let (day, year): (i64, i64) = (day.parse().ok()?, year.parse().ok()?);
    let mut parts = time.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    // Years that begin in March, so that a leap day is the last of its year.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    // From 1 March of year 0 to 1 January 1970.
    let days = days - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::seconds_of;

    #[test]
    fn dates_of_http() {
        assert_eq!(seconds_of("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds_of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds_of("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(seconds_of("Fri, 01 Mar 2024 00:00:00 GMT"), Some(1_709_251_200));
        assert_eq!(seconds_of("yesterday"), None);
    }
}
