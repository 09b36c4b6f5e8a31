//! Whether an image and a map belong together, or two maps, and why not.

use crate::exit::{Exit, Failure, Result};
use crate::files::Image;
use dirtymap::{Comparison, info::Info};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::path::Path;

/// The JSON of `--image`; docs/cli.md describes it.
#[derive(Debug, Serialize)]
pub struct Relation {
    pub image: String,
    pub verdict: &'static str,
    pub why: Option<String>,
}

impl Relation {
    /// Compares the image with what the map has recorded of it.
    pub fn of(info: &Info, path: &Path) -> Result<Relation> {
        let image = Image::open(path, false)?;
        let (size, len) = (image.size(), info.geometry.len());
        let (verdict, why) = match &info.image {
            None if size != len => ("another", Some(format!("it has {size} bytes, and the map covers {len}"))),
            None => ("not-recorded", Some("the map has not been used with an image so far".into())),
            Some(recorded) => {
                let compared = image.stamp.compare(recorded);
                let why = compared.why().map(String::from);
                match compared {
                    Comparison::Same => ("same", why),
                    Comparison::Unproven(_) => ("probably", why),
                    Comparison::Changed(_) => ("changed", why),
                    Comparison::Another(_) => ("another", why),
                }
            }
        };
        Ok(Relation { image: path.display().to_string(), verdict, why })
    }

    /// The code that the command ends with, if nothing else says more.
    pub fn exit(&self) -> Exit {
        if matches!(self.verdict, "changed" | "another") { Exit::DIFFERENT } else { Exit::Fine }
    }

    /// What to do about it, if anything.
    pub fn advice(&self, map: &Path) -> Option<String> {
        match self.verdict {
            "changed" => {
                Some("take a backup: it copies everything; and see what writes to the image without the map".into())
            }
            "another" => Some(format!(
                "give the map's own image; or have the map belong to this one from now on, by a full backup (dirtymap backup \
                 {} TARGET --map {} --force)",
                self.image,
                map.display()
            )),
            _ => None,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let what = match self.verdict {
            "same" => "is the map's image, and was not written since without the map",
            "probably" => "is the map's image as far as can be known",
            "changed" => "is the map's image, changed without the map: the next backup copies everything",
            "another" => "is not the map's image",
            _ => "may be the map's image",
        };
        let why = self.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        format!("{} {what}{why}", shown(&self.image))
    }
}

/// Refuses maps that cover unequally many bytes.
pub fn equally_long(a: (&Path, u64), b: (&Path, u64)) -> Result<()> {
    if a.1 == b.1 {
        return Ok(());
    }
    let message = format!(
        "{} covers {} bytes and {} covers {}; expected maps that cover equally many",
        a.0.display(),
        a.1,
        b.0.display(),
        b.1
    );
    Err(Failure::new("size-differs", message))
}

/// Refuses an image whose size is not what the map was made for.
pub fn fits(info: &Info, map: &Path, image: &Image) -> Result<()> {
    let (len, size) = (info.geometry.len(), image.size());
    if len == size {
        return Ok(());
    }
    let (path, map) = (image.path.display(), map.display());
    let advice = match size > len {
        true => format!(
            "if another tool has grown the image, tell the map (dirtymap resize {map} {size} --image {path}): the next backup \
             copies everything, as nothing proves that it was only grown; else give the map that belongs to this image"
        ),
        false => format!(
            "give the map that belongs to this image; if another tool has cut the image, tell the map (dirtymap resize {map} \
             {size})"
        ),
    };
    Err(Failure::new("size-differs", format!("{path} has {size} bytes, but {map} is a map for {len} bytes; {advice}")))
}

/// Refuses an image in place of the one that the map belongs to.
pub fn belongs(info: &Info, map: &Path, image: &Image, advice: &str) -> Result<()> {
    let compared = info.image.as_ref().map(|recorded| image.stamp.compare(recorded));
    let Some(Comparison::Another(why)) = compared else { return Ok(()) };
    let message = format!(
        "{} is not the image that {} belongs to ({why}); give that one; {advice}",
        image.path.display(),
        map.display()
    );
    Err(Failure::new("wrong-image", message))
}

/// What to do with an image that is not the map's own, for a command that does not copy it.
pub fn another(map: &Path, image: &Image) -> String {
    format!(
        "to take this one for the map's image from now on, make a full backup of it (dirtymap backup {} TARGET --map {} \
         --force)",
        image.path.display(),
        map.display()
    )
}
