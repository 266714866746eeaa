//! Reading a body within a limit: by what it declares before anything is read, and while reading.

use bytes::{Bytes, BytesMut};
use reqwest::Response;

use super::Ask;
use crate::registry::FetchError;

pub(super) async fn read(mut response: Response, limit: u64, ask: &Ask<'_>) -> Result<Bytes, FetchError> {
    if response.content_length().is_some_and(|declared| declared > limit) {
        return Err(ask.too_large(limit));
    }
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| ask.unreachable(&e))? {
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Err(ask.too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}
