//! One page of a list, read within a bound of bytes.

use ::kube::{
    Client, Error,
    client::Body,
    core::{ListMeta, Status},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Deserialize, de::DeserializeOwned};

/// Most bytes of one page as text. Of larger ones fewer objects are asked for at a time: an object may have 1.5 MiB, and is
/// some times that while it is decoded.
pub(crate) const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Objects of a list, and where it goes on.
#[derive(Debug, Deserialize)]
pub(crate) struct Page<T> {
    /// The version of the list, and what its next page is asked for with.
    #[serde(default)]
    pub(crate) metadata: ListMeta,
    /// The objects; some servers write `null` for none.
    pub(crate) items: Option<Vec<T>>,
}

/// Reads one page; `None` when it has more than [`MAX_PAGE_BYTES`].
pub(crate) async fn read<T: DeserializeOwned>(
    client: &Client,
    request: http::Request<Vec<u8>>,
) -> Result<Option<Page<T>>, Error> {
    let response = client.send(request.map(Body::from)).await?;
    let code = response.status();
    let body = match Limited::new(response.into_body(), MAX_PAGE_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Ok(None),
        Err(error) => return Err(Error::Service(error)),
    };
    if code.is_success() {
        return serde_json::from_slice(&body).map(Some).map_err(Error::SerdeError);
    }
    let status = serde_json::from_slice::<Status>(&body);
    let unread =
        || Status::failure(&String::from_utf8_lossy(&body), "Failed to parse error data").with_code(code.as_u16());
    Err(Error::Api(status.unwrap_or_else(|_| unread()).boxed()))
}
