//! CloudEvents 1.0 over HTTP, in binary and in structured mode: what an event says of itself goes along with the call as
//! `ce-…` fields, and its data is the payload.

use axum::http::HeaderMap;
use base64::Engine as _;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::problem::Problem;

/// What an attribute is called as a header, and as a field of a call.
const PREFIX: &str = "ce-";
/// How all media types of events begin.
const FAMILY: &str = "application/cloudevents";
/// What every event says of itself.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];
/// The longest name that fits a field.
const NAME_BYTES_MAX: usize = 61;

/// The attributes of an event, by the names of fields.
pub(crate) type Attributes = Vec<(String, String)>;

/// A whole event, taken apart.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) attributes: Attributes,
    /// The media type of its data.
    pub(crate) media_type: Option<String>,
    pub(crate) data: Bytes,
}

fn bad(rule: impl Into<String>) -> Problem {
    Problem::bad("bad-event", rule)
}

/// Whether the body is an event as a whole (structured mode).
pub(crate) fn is_whole(media_type: Option<&str>) -> Result<bool, Problem> {
    let essence = essence(media_type.unwrap_or_default());
    if !essence.get(..FAMILY.len()).is_some_and(|family| family.eq_ignore_ascii_case(FAMILY)) {
        return Ok(false);
    }
    if essence.eq_ignore_ascii_case("application/cloudevents+json") {
        return Ok(true);
    }
    let detail =
        format!("{essence} is not taken; send events one by one, as application/cloudevents+json or in binary mode");
    Err(Problem::new(415, "unsupported-event").detail(detail))
}

/// The attributes that stand in the headers (binary mode); none if the request is no event.
pub(crate) fn in_headers(headers: &HeaderMap) -> Result<Attributes, Problem> {
    let mut found = Attributes::new();
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix(PREFIX) else { continue };
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(bad(format!("the header {name} is there twice; send it once")));
        };
        let value = decoded(value.as_bytes());
        let value = value
            .ok_or_else(|| bad(format!("the header {name} is not UTF-8, percent-encoded where it is not ASCII")))?;
        found.push(attribute_of(attribute, value)?);
    }
    if !found.is_empty() {
        check(&found)?;
    }
    Ok(found)
}

/// Takes an event of the JSON format apart. Its data stays as it was written, byte for byte.
pub(crate) fn whole(body: &Bytes) -> Result<Event, Problem> {
    let members =
        members(body).ok_or_else(|| bad("the body is no JSON object, as application/cloudevents+json has it"))?;
    let (mut attributes, mut media_type) = (Attributes::new(), None);
    let (mut data, mut base64) = (None, None);
    for (name, text) in members {
        let unread =
            || bad(format!("{:?} cannot be read; write it as JSON has it", name.chars().take(80).collect::<String>()));
        match (name.as_str(), value_of(text).ok_or_else(unread)?) {
            (_, Value::Null) => {}
            ("data", _) if data.is_some() => return Err(bad("`data` is there twice")),
            ("data_base64", _) if base64.is_some() => return Err(bad("`data_base64` is there twice")),
            ("data", value) => data = Some((text, value)),
            ("data_base64", Value::String(text)) => base64 = Some(text),
            ("datacontenttype", Value::String(text)) => media_type = Some(text),
            ("data_base64" | "datacontenttype", _) => return Err(bad(format!("`{name}` is no text"))),
            (_, Value::String(text)) => attributes.push(attribute_of(&name, text)?),
            (_, value @ (Value::Bool(_) | Value::Number(_))) => {
                attributes.push(attribute_of(&name, value.to_string())?)
            }
            (_, Value::Array(_) | Value::Object(_)) => {
                let name: String = name.chars().take(80).collect();
                return Err(bad(format!("{name:?} is no text, number or truth value; only `data` may be more")));
            }
        }
    }
    attributes.sort();
    if attributes.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(bad("an attribute is there twice"));
    }
    check(&attributes)?;
    let data = match (data, base64) {
        (Some(_), Some(_)) => return Err(bad("there are both `data` and `data_base64`; send one of them")),
        (None, None) => Bytes::new(),
        (None, Some(text)) => match base64::prelude::BASE64_STANDARD.decode(text) {
            Ok(bytes) => bytes.into(),
            Err(_) => return Err(bad("`data_base64` is not base64")),
        },
        // A text of another type than JSON stands for itself.
        (Some((_, Value::String(text))), None) if !media_type.as_deref().is_none_or(is_json) => text.into(),
        (Some((text, _)), None) => body.slice_ref(text),
    };
    Ok(Event { attributes, media_type, data })
}

/// One attribute as a field, if its name is one. What follows of a wrong value is said when fields are counted.
fn attribute_of(name: &str, value: String) -> Result<(String, String), Problem> {
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !is_name {
        let name: String = name.chars().take(80).collect();
        return Err(bad(format!("{name:?} is no name of an attribute; it is 1 to {NAME_BYTES_MAX} of a-z and 0-9")));
    }
    if value.chars().any(char::is_control) {
        return Err(bad(format!("the attribute {name} has control characters in it")));
    }
    Ok((format!("{PREFIX}{name}"), value))
}

fn check(attributes: &Attributes) -> Result<(), Problem> {
    let value = |name: &str| {
        let found = attributes.iter().find(|(field, _)| field.strip_prefix(PREFIX) == Some(name));
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    if let Some(missing) = REQUIRED.into_iter().find(|name| value(name).is_none()) {
        return Err(bad(format!("the attribute {missing} is missing; an event has specversion, id, source and type")));
    }
    if value("specversion") != Some("1.0") {
        return Err(bad("events are taken of specversion 1.0 alone"));
    }
    Ok(())
}

/// As the HTTP binding writes values: what is not printable ASCII is percent-encoded; older senders put quotes around.
fn decoded(value: &[u8]) -> Option<String> {
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    percent_encoding::percent_decode(bare).decode_utf8().ok().map(|text| text.into_owned())
}

fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

fn is_json(media_type: &str) -> bool {
    let essence = essence(media_type).to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// The members of a JSON object, each value as it is written; none if it is no such object.
fn members(text: &[u8]) -> Option<Vec<(String, &[u8])>> {
    let mut found = Vec::new();
    let mut rest = text.trim_ascii().strip_prefix(b"{")?.trim_ascii_start();
    if rest == b"}" {
        return Some(found);
    }
    loop {
        let mut names = serde_json::Deserializer::from_slice(rest).into_iter::<String>();
        let name = names.next()?.ok()?;
        rest = rest[names.byte_offset()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let (value, after) = rest.split_at(values.byte_offset());
        found.push((name, value));
        rest = after.trim_ascii_start();
        match rest {
            b"}" => return Some(found),
            _ => rest = rest.strip_prefix(b",")?.trim_ascii_start(),
        }
    }
}

/// What a value says, as far as it is needed here: what has an inside is known by that alone. None if it says nothing that
/// could be handed on: half of a character, bytes that are none, a number beyond all.
fn value_of(text: &[u8]) -> Option<Value> {
    match text.first() {
        Some(b'{') => Some(Value::Object(serde_json::Map::new())),
        Some(b'[') => Some(Value::Array(Vec::new())),
        _ => serde_json::from_slice(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"specversion":"1.0","id":"e-1","source":"/shop","type":"order.placed""#;

    fn read(rest: &str) -> Result<Event, String> {
        let body = Bytes::from(format!("{WHOLE}{rest}}}"));
        whole(&body).map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn the_data_of_a_whole_event_is_what_stands_there() {
        for (rest, media_type, data) in [
            ("", None, &b""[..]),
            (
                r#", "data" : {"n": 12345678901234567890123, "a":1.0 } "#,
                None,
                br#"{"n": 12345678901234567890123, "a":1.0 }"#,
            ),
            (r#","data":"text","datacontenttype":"text/plain""#, Some("text/plain"), b"text"),
            (
                r#","data":"text","datacontenttype":"application/vnd.x+json; a=b""#,
                Some("application/vnd.x+json; a=b"),
                b"\"text\"",
            ),
            (r#","data":"text""#, None, b"\"text\""),
            (r#","data":7,"datacontenttype":"text/plain""#, Some("text/plain"), b"7"),
            (r#","data_base64":"AP8=","datacontenttype":"image/png""#, Some("image/png"), b"\0\xff"),
            (r#","data":null"#, None, b""),
        ] {
            let event = read(rest).unwrap();
            assert_eq!((event.media_type.as_deref(), &event.data[..]), (media_type, data), "{rest}");
        }
    }

    #[test]
    fn the_attributes_of_a_whole_event_become_fields() {
        let event = read(r#","subject":"Ädа","count":3,"sampled":true,"time":null"#).unwrap();
        let pairs: Vec<(&str, &str)> = event.attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [
            ("ce-count", "3"),
            ("ce-id", "e-1"),
            ("ce-sampled", "true"),
            ("ce-source", "/shop"),
            ("ce-specversion", "1.0"),
            ("ce-subject", "Ädа"),
            ("ce-type", "order.placed"),
        ];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn what_is_no_event_is_refused_with_the_rule() {
        for (rest, rule) in [
            (r#","data":1,"data_base64":"AA==""#, "both"),
            (r#","data_base64":"%""#, "not base64"),
            (r#","Subject":"x""#, "no name of an attribute"),
            (r#","subject":{"a":1}"#, "no text, number"),
            (r#","subject":"a\nb""#, "control characters"),
            (r#","id":"again""#, "twice"),
            (r#","data":"\ud800""#, "cannot be read"),
            (r#","data":1e999"#, "cannot be read"),
            (r#","subject":"\udfff""#, "cannot be read"),
            (r#","data":1,"data":2"#, "twice"),
            (r#","datacontenttype":5"#, "no text"),
            (r#","data":1} trailing {"a":2"#, "no JSON object"),
            (r#","data":01"#, "no JSON object"),
            (",", "no JSON object"),
        ] {
            let refused = read(rest).unwrap_err();
            assert!(refused.contains(rule), "{rest}: {refused}");
        }
        for body in
            ["", "[]", "{}", r#"{"specversion":"0.3","id":"a","source":"b","type":"c"}"#, r#"{"a" "b"}"#, "{\"a\":1"]
        {
            assert!(whole(&Bytes::from(body)).is_err(), "{body}");
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn attributes_in_headers_are_decoded() {
        let event = [("ce-specversion", "1.0"), ("ce-id", "e-1"), ("ce-source", "/shop"), ("ce-type", "\"quoted\"")];
        let mut all = event.to_vec();
        all.push(("ce-subject", "Euro%20%E2%82%AC%zz"));
        let found = in_headers(&headers(&all)).unwrap();
        assert!(found.contains(&("ce-subject".to_owned(), "Euro €%zz".to_owned())), "{found:?}");
        assert!(found.contains(&("ce-type".to_owned(), "quoted".to_owned())), "{found:?}");
        assert!(in_headers(&headers(&[("content-type", "text/plain")])).unwrap().is_empty());
        for wrong in [("ce-subject", "%FF"), ("ce-id", "again"), ("ce-a-b", "1"), ("ce-x", "a%0Ab")] {
            let mut all = event.to_vec();
            all.push(wrong);
            assert!(in_headers(&headers(&all)).is_err(), "{wrong:?}");
        }
        for missing in 0..event.len() {
            let mut all = event.to_vec();
            all.remove(missing);
            assert!(in_headers(&headers(&all)).is_err(), "without {:?}", event[missing]);
        }
    }

    #[test]
    fn only_single_events_of_json_are_taken_as_a_whole() {
        assert!(!is_whole(None).unwrap() && !is_whole(Some("application/json")).unwrap());
        assert!(is_whole(Some("Application/CloudEvents+JSON; charset=utf-8")).unwrap());
        assert!(is_whole(Some("application/cloudevents-batch+json")).is_err());
        assert!(is_whole(Some("application/cloudevents+avro")).is_err());
    }
}
