//! The JSON form of a map, read: the fields that make a map, and areas as they come.
//!
//! Invariant kept here: an area is handed out only when everything that it rests on was found right. What `undump` has no
//! use for is only seen to be JSON.

use super::line::shown;
use super::parse::{check_label, check_start, end_of, geometry};
use super::{Area, DURABILITIES, Error, Failed, Head, VERSION};
use dirtymap::Geometry;
use dirtymap::format::Durability;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;
use std::fmt;
use std::io::Read;

const WHAT: &str = "the JSON of `dirtymap dump`";

/// Reads all of a dump, and gives its areas to `each`, ascending.
pub(super) fn read<E>(input: impl Read, mut each: impl FnMut(Area) -> Result<(), E>) -> Result<Head, Failed<E>> {
    let mut json = Deserializer::from_reader(input);
    let mut taker = None;
    let object = Object {
        each: |area| {
            each(area).map_err(|e| {
                taker = Some(e);
                serde_json::Error::custom("no more is wanted")
            })
        },
    };
    let head = json.deserialize_map(object).and_then(|head| json.end().map(|()| head));
    match (head, taker) {
        (_, Some(e)) => Err(Failed::Taker(e)),
        (Err(e), _) if e.is_io() => Err(Failed::Io(e.into())),
        (Err(e), _) => Err(Failed::Wrong(place(&e))),
        (Ok(head), _) => Ok(head),
    }
}

/// Where serde says that it is wrong, and how.
fn place(e: &serde_json::Error) -> Error {
    let text = e.to_string();
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    let (found, expected) = text.split_once(", expected ").unwrap_or((text, WHAT));
    // At the start of a line serde counts no column.
    let (line, column) = (e.line().max(1) as u64, e.column().max(1));
    Error { line, column, found: shown(found.into()), expected: expected.into() }
}

fn wrong<E: serde::de::Error>((found, expected): (impl fmt::Display, impl fmt::Display)) -> E {
    E::custom(format_args!("{found}, expected {expected}"))
}

/// Sets a field that may be there once.
fn once<'de, T: Deserialize<'de>, M: MapAccess<'de>>(field: &mut Option<T>, map: &mut M) -> Result<(), M::Error> {
    match field.replace(map.next_value()?) {
        Some(_) => Err(wrong(("a field for the second time", "every field only once"))),
        None => Ok(()),
    }
}

/// The fields that a map is made of.
#[derive(Default)]
struct Fields {
    version: Option<u64>,
    len: Option<u64>,
    granularity: Option<u32>,
    durability: Option<String>,
    label: Option<String>,
    image: Option<Option<IgnoredAny>>,
}

impl Fields {
    /// All of them, once they are there.
    fn head<E: serde::de::Error>(&mut self) -> Result<Head, E> {
        let missing = |name| move || wrong((format_args!("no {name}"), "it in front of the areas, which come last"));
        let version = self.version.ok_or_else(missing("dump_version"))?;
        if version != VERSION {
            return Err(wrong((format_args!("version {version}"), "version 1, the only one that is known here")));
        }
        let len = self.len.ok_or_else(missing("len"))?;
        let granularity = self.granularity.ok_or_else(missing("granularity"))?;
        let durability = match self.durability.as_deref().ok_or_else(missing("durability"))? {
            word if word == DURABILITIES[0] => Durability::PowerLoss,
            word if word == DURABILITIES[1] => Durability::Process,
            word => return Err(wrong((format_args!("durability {word:?}"), DURABILITIES.join(" or ")))),
        };
        let label = self.label.take().ok_or_else(missing("label"))?;
        check_label(&label).map_err(wrong)?;
        let geometry = geometry(len, granularity).map_err(wrong)?;
        Ok(Head { geometry, durability, label, had_image: matches!(self.image, Some(Some(_))) })
    }
}

/// All of a dump.
struct Object<F> {
    each: F,
}

impl<'de, F: FnMut(Area) -> Result<(), serde_json::Error>> Visitor<'de> for Object<F> {
    type Value = Head;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WHAT)
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<Head, M::Error> {
        let mut fields = Fields::default();
        let mut head = None;
        while let Some(key) = map.next_key::<String>()? {
            match &*key {
                _ if head.is_some() => return Err(wrong((format_args!("{key:?}"), "nothing after the areas"))),
                "dump_version" => once(&mut fields.version, &mut map)?,
                "len" => once(&mut fields.len, &mut map)?,
                "granularity" => once(&mut fields.granularity, &mut map)?,
                "durability" => once(&mut fields.durability, &mut map)?,
                "label" => once(&mut fields.label, &mut map)?,
                "image" => once(&mut fields.image, &mut map)?,
                "areas" => {
                    let complete = fields.head()?;
                    map.next_value_seed(Areas { geometry: complete.geometry, each: &mut self.each })?;
                    head = Some(complete);
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        head.ok_or_else(|| wrong(("no areas", WHAT)))
    }
}

/// The list of areas.
struct Areas<'a, F> {
    geometry: Geometry,
    each: &'a mut F,
}

#[derive(Deserialize)]
struct Item {
    offset: u64,
    length: u64,
    assumed: bool,
}

impl<'de, F: FnMut(Area) -> Result<(), serde_json::Error>> DeserializeSeed<'de> for Areas<'_, F> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, list: D) -> Result<(), D::Error> {
        list.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(Area) -> Result<(), serde_json::Error>> Visitor<'de> for Areas<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of areas")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<(), S::Error> {
        let mut from = 0;
        while let Some(Item { offset, length, assumed }) = list.next_element()? {
            let found = |name, number| move |expected| wrong((format_args!("{name} {number}"), expected));
            check_start(&self.geometry, from, offset).map_err(found("offset", offset))?;
            from = end_of(&self.geometry, offset, length).map_err(found("length", length))?;
            (self.each)(Area { items: offset..from, assumed }).map_err(S::Error::custom)?;
        }
        Ok(())
    }
}
