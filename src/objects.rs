//! An object store by its URL: opened with the provider's own credentials, and told of without a secret.

use std::{sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    http::HttpBuilder,
};

/// Characters of an error: stores answer with whole documents.
const MOST_ERROR: usize = 400;
/// Tries after the first one, within the patience.
const RETRIES: usize = 2;

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
pub struct Place<'a> {
    pub scheme: &'a str,
    /// Or bucket, or container.
    pub host: &'a str,
    pub path: &'a str,
    pub url: &'a str,
}

impl Place<'_> {
    /// # Errors
    /// What is wrong with the URL, without what may be a secret in it.
    pub fn read(url: &str) -> Result<Place<'_>, String> {
        let url = url.trim_end_matches('/');
        let (scheme, rest) = url.split_once("://").ok_or("expected a URL")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !["s3", "gs", "az", "http", "https"].contains(&scheme) {
            return Err("expected s3://, gs://, az://, https:// or http://, or a local path".into());
        }
        if host.is_empty() {
            return Err("expected a bucket, a container or a server's name after ://".into());
        }
        // They would be shown wherever the URL is.
        if host.contains('@') || url.contains(['?', '#']) {
            return Err(
                "expected no credentials, query or fragment in it: credentials come from the environment (docs/operations.md)"
                    .into(),
            );
        }
        let place = Place { scheme, host, path, url };
        match place.is_web() && is_link_local(host) {
            true => Err("a link-local address is where clouds keep credentials, not models".into()),
            false => Ok(place),
        }
    }

    /// Whether it is a web server, which can be read and no more.
    pub fn is_web(&self) -> bool {
        matches!(self.scheme, "http" | "https")
    }

    /// Credentials come from the environment, as the provider's own tools read them. Nothing is asked of the store yet.
    ///
    /// # Errors
    /// What the environment lacks.
    pub fn open(&self, patience: Duration) -> Result<Arc<dyn ObjectStore>, String> {
        build(self, patience).map_err(|error| plain(&error))
    }
}

fn is_link_local(host: &str) -> bool {
    host.starts_with("169.254.") || host.to_ascii_lowercase().starts_with("[fe80:")
}

/// Whether an endpoint is to be spoken to without TLS: who names such a one means it.
fn is_plain(endpoint: Option<String>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

fn build(place: &Place<'_>, patience: Duration) -> object_store::Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig {
        backoff: BackoffConfig { max_backoff: patience / 4, ..BackoffConfig::default() },
        max_retries: RETRIES,
        retry_timeout: patience,
    };
    let seconds = format!("{}ms", patience.as_millis());
    // A whole answer may take as long as it likes: what must not last is silence.
    let client =
        [(ClientConfigKey::ConnectTimeout, &*seconds), (ClientConfigKey::Timeout, "30days")];
    let name = place.host;
    Ok(match place.scheme {
        "s3" => {
            let mut s3 = AmazonS3Builder::from_env().with_bucket_name(name).with_retry(retry);
            for (key, value) in client {
                s3 = s3.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            if is_plain(s3.get_config_value(&AmazonS3ConfigKey::Endpoint)) {
                s3 = s3.with_allow_http(true);
            }
            Arc::new(s3.build()?)
        }
        "gs" => {
            let mut gs =
                GoogleCloudStorageBuilder::from_env().with_bucket_name(name).with_retry(retry);
            for (key, value) in client {
                gs = gs.with_config(GoogleConfigKey::Client(key), value);
            }
            if is_plain(gs.get_config_value(&GoogleConfigKey::BaseUrl)) {
                let allowed = GoogleConfigKey::Client(ClientConfigKey::AllowHttp);
                gs = gs.with_config(allowed, "true");
            }
            Arc::new(gs.build()?)
        }
        "az" => {
            let mut az =
                MicrosoftAzureBuilder::from_env().with_container_name(name).with_retry(retry);
            for (key, value) in client {
                az = az.with_config(AzureConfigKey::Client(key), value);
            }
            if is_plain(az.get_config_value(&AzureConfigKey::Endpoint)) {
                az = az.with_allow_http(true);
            }
            Arc::new(az.build()?)
        }
        scheme => {
            let mut web = HttpBuilder::new().with_url(place.url).with_retry(retry);
            for (key, value) in client {
                web = web.with_config(key, value);
            }
            let plain = (scheme == "http").to_string();
            Arc::new(web.with_config(ClientConfigKey::AllowHttp, plain).build()?)
        }
    })
}

/// An error on one line, without what a URL's query holds (signatures, for some stores), and not too long.
pub fn plain(error: &impl std::fmt::Display) -> String {
    scrub(&error.to_string())
}

fn scrub(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match word.split_once("://") {
        Some((_, rest)) if rest.contains(['?', '@']) => "(a URL)",
        _ => word,
    });
    let text = words.collect::<Vec<_>>().join(" ");
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    match text.char_indices().nth(MOST_ERROR) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// A URL for a message, without what might be a secret in it.
pub fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            format!("{}***{}", &url[..scheme + 3], &url[at..])
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let error = scrub("GET https://a.net/b?sig=abc failed\n after \u{7}2 tries");
        assert_eq!(error, "GET (a URL) failed after 2 tries");
        assert_eq!(shown("https://me:pw@host/x?y=1"), "https://***@host/x");
        assert_eq!(scrub(&"x".repeat(1000)).chars().count(), MOST_ERROR + 1);
    }
}
