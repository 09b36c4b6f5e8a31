//! `Map`: what maps of every kind can do.
//!
//! Invariant kept here: locks are taken without the interpreter's lock, and those of two maps in the order of their addresses.

use crate::arguments::{Key, as_ranges, clamped};
use crate::call::call;
use crate::error::{Failure, Result};
use crate::held::{Held, Kind, Place, read_lock, with, write_lock};
use dirtymap::checkpoint::PointSet;
use dirtymap::iter::Cursor;
use dirtymap::{Bitmap, DirtyMap, Error, Geometry, ReadMap, WriteMap};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyMemoryView};
use pyo3::{PyTraverseError, PyVisit};
use std::mem::replace;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A map: reading, changing and combining it, whatever kind it is.
#[pyclass(frozen, subclass, module = "dirtymap")]
pub struct Map {
    pub(crate) kind: Kind,
}

/// What is dirty at one moment, as a checkpoint or a point has it: it can be read, and never changes.
#[pyclass(frozen, extends = Map, module = "dirtymap")]
pub struct DirtySet;

pub(crate) fn new_set(py: Python<'_>, set: Arc<PointSet>) -> PyResult<Py<DirtySet>> {
    Py::new(py, PyClassInitializer::from(Map { kind: Kind::Set(set) }).add_subclass(DirtySet))
}

fn shape(map: &(impl ReadMap + ?Sized)) -> Geometry {
    *map.geometry()
}

/// Runs an expression that changes a map with whatever map it is.
macro_rules! change {
    ($of:expr, $py:expr, $map:ident => $run:expr) => {
        $of.change($py, |$map| $run, |$map| $run)
    };
}

/// The same with another map that it is changed by.
macro_rules! combine {
    ($of:expr, $py:expr, $by:expr, $map:ident, $other:ident => $run:expr) => {
        $of.combine($py, $by, |$map, by| with!(by, $other => $run), |$map, by| with!(by, $other => $run))
    };
}

impl Map {
    fn place(&self) -> Result<MutexGuard<'_, Place>> {
        match &self.kind {
            Kind::File(place, _) => Ok(place.lock().unwrap_or_else(PoisonError::into_inner)),
            _ => Err(PyTypeError::new_err("it is not a map in a file").into()),
        }
    }

    pub(crate) fn file(&self) -> Result<Arc<DirtyMap>> {
        match &*self.place()? {
            Place::Open(map) => Ok(map.clone()),
            Place::Taken => Err(Failure::InUse),
            Place::Closed => Err(Failure::Closed),
        }
    }

    /// Does something with the map in the file that nobody else uses, and says what is left of it.
    pub(crate) fn alone<R>(&self, f: impl FnOnce(DirtyMap) -> (Place, Result<R>)) -> Result<R> {
        let mut place = self.place()?;
        let taken = match replace(&mut *place, Place::Taken) {
            Place::Open(map) => Arc::try_unwrap(map).map_err(|map| (Place::Open(map), Failure::InUse)),
            Place::Taken => Err((Place::Taken, Failure::InUse)),
            Place::Closed => Err((Place::Closed, Failure::Closed)),
        };
        match taken {
            Ok(map) => {
                drop(place);
                let (left, done) = f(map);
                *self.place()? = left;
                done
            }
            Err((as_it_was, why)) => {
                *place = as_it_was;
                Err(why)
            }
        }
    }

    pub(crate) fn held(&self) -> Result<Held<'_>> {
        Ok(match &self.kind {
            Kind::File(..) => Held::File(self.file()?),
            Kind::Memory(map) => Held::Memory(read_lock(map)),
            Kind::Set(set) => Held::Set(set),
        })
    }

    /// Asks it something without the interpreter's lock.
    fn ask<R: Send>(&self, py: Python<'_>, f: impl FnOnce(&dyn ReadMap) -> dirtymap::Result<R> + Send) -> Result<R> {
        call(py, || {
            let held = self.held()?;
            held.verified()?;
            let answer = f(held.get())?;
            held.verified().map(|()| answer)
        })
    }

    /// Changes it without the interpreter's lock.
    fn change<R: Send>(
        &self,
        py: Python<'_>,
        file: impl FnOnce(&mut &DirtyMap) -> dirtymap::Result<R> + Send,
        memory: impl FnOnce(&mut Bitmap) -> dirtymap::Result<R> + Send,
    ) -> Result<R> {
        call(py, || match &self.kind {
            Kind::File(..) => Ok(file(&mut &*self.file()?)?),
            Kind::Memory(map) => Ok(memory(&mut write_lock(map))?),
            Kind::Set(_) => Err(Error::ReadOnly.into()),
        })
    }

    pub(crate) fn shape(&self, py: Python<'_>) -> Result<Geometry> {
        call(py, || Ok(shape(self.held()?.get())))
    }

    fn len(&self, py: Python<'_>) -> Result<u64> {
        Ok(self.shape(py)?.len())
    }

    fn is(&self, other: &Map) -> bool {
        std::ptr::eq(self, other)
    }

    /// Changes it by another one.
    fn combine<R: Send>(
        &self,
        py: Python<'_>,
        other: &Map,
        file: impl FnOnce(&DirtyMap, &Held<'_>) -> dirtymap::Result<R> + Send,
        memory: impl FnOnce(&mut Bitmap, &Held<'_>) -> dirtymap::Result<R> + Send,
    ) -> Result<R> {
        call(py, || match &self.kind {
            Kind::File(..) => Ok(file(&*self.file()?, &other.held()?)?),
            Kind::Memory(map) => {
                // Two threads that take the same two maps in different orders would wait for each other.
                if std::ptr::from_ref(self) < std::ptr::from_ref(other) {
                    let mut map = write_lock(map);
                    Ok(memory(&mut map, &other.held()?)?)
                } else {
                    let other = other.held()?;
                    Ok(memory(&mut write_lock(map), &other)?)
                }
            }
            Kind::Set(_) => Err(Error::ReadOnly.into()),
        })
    }

    /// Asks about this one and another one.
    fn ask_both<R: Send>(
        &self,
        py: Python<'_>,
        other: &Map,
        f: impl FnOnce(&Held<'_>, &Held<'_>) -> dirtymap::Result<R> + Send,
    ) -> Result<R> {
        call(py, || {
            let (here, there);
            if std::ptr::from_ref(self) < std::ptr::from_ref(other) {
                here = self.held()?;
                there = Some(other.held()?);
            } else {
                // Of one map one lock: a second one would wait for a writer that waits for the first.
                there = if self.is(other) { None } else { Some(other.held()?) };
                here = self.held()?;
            }
            let there = there.as_ref().unwrap_or(&here);
            let answer = f(&here, there)?;
            here.verified()?;
            there.verified().map(|()| answer)
        })
    }

    /// A copy in memory.
    pub(crate) fn copied(&self, py: Python<'_>) -> Result<Bitmap> {
        call(py, || Ok(with!(&self.held()?, map => Bitmap::copy_of(map)?)))
    }

    /// All dirty extents of a range.
    fn listed(&self, py: Python<'_>, start: u64, stop: Option<u64>) -> Result<Vec<(u64, u64)>> {
        self.ask(py, |map| Ok(extents(map, clamped(map.geometry(), start, stop)).collect()))
    }

    /// A change that leaves everything as it is.
    fn as_it_is(&self, py: Python<'_>) -> Result<u64> {
        change!(self, py, map => map.set(0..0))
    }
}

/// The dirty extents of a range, as (start, stop).
fn extents(map: &dyn ReadMap, range: std::ops::Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let mut cursor = Cursor::new(range);
    std::iter::from_fn(move || cursor.next_extent(map)).map(|found| (found.start, found.end))
}

#[pymethods]
impl Map {
    /// Length in items: bytes, for a disk image.
    fn __len__(&self, py: Python<'_>) -> Result<usize> {
        Ok(self.len(py)? as usize)
    }

    /// Items behind each bit.
    #[getter]
    fn granule(&self, py: Python<'_>) -> Result<u64> {
        Ok(self.shape(py)?.granule())
    }

    /// Whether an item is dirty; or for a slice, the dirty extents in it, as a list of (start, stop).
    fn __getitem__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> Result<Bound<'py, PyAny>> {
        Ok(match Key::of(key, || self.len(py))? {
            Key::Item(item) => PyBool::new(py, self.ask(py, |map| map.get(item))?).to_owned().into_any(),
            Key::Range(start, stop) => self.listed(py, start, stop)?.into_pyobject(py)?,
        })
    }

    /// True marks the granules of an item or a slice, False clears them; a slice that is cleared has whole granules.
    fn __setitem__(&self, py: Python<'_>, key: &Bound<'_, PyAny>, dirty: bool) -> Result<()> {
        let (start, stop) = match Key::of(key, || self.len(py))? {
            Key::Item(item) => (item, item.saturating_add(1)),
            Key::Range(start, stop) => (start, stop.map_or_else(|| self.len(py), Ok)?),
        };
        if dirty { self.set(py, start, stop) } else { self.reset(py, start, stop) }.map(drop)
    }

    /// Refused: it would compare an item with extents, and never find it.
    fn __contains__(&self, _item: &Bound<'_, PyAny>) -> Result<bool> {
        Err(PyTypeError::new_err(
            "map[item] says whether an item is dirty, map.any(start, stop) whether any of a range is",
        )
        .into())
    }

    /// The dirty extents of the whole map, as (start, stop).
    fn __iter__(slf: Bound<'_, Self>) -> Extents {
        Extents { map: slf.unbind(), cursor: Mutex::new(Cursor::new(0..u64::MAX)) }
    }

    /// Marks every granule that the range touches; how many were clean. Do not write the data after an error.
    fn set(&self, py: Python<'_>, start: u64, stop: u64) -> Result<u64> {
        change!(self, py, map => map.set(start..stop))
    }

    /// Marks several ranges, which cost one sync together; how many granules were clean.
    fn set_ranges(&self, py: Python<'_>, ranges: Vec<(u64, u64)>) -> Result<u64> {
        let ranges = as_ranges(ranges);
        let memory = |map: &mut Bitmap| {
            ranges.iter().try_for_each(|range| map.geometry().check(range))?;
            ranges.iter().map(|range| map.set(range.clone())).sum()
        };
        self.change(py, |map| map.set_ranges(&ranges), memory)
    }

    /// Marks everything; how many granules were clean.
    fn set_all(&self, py: Python<'_>) -> Result<u64> {
        change!(self, py, map => WriteMap::set_all(map))
    }

    /// Clears whole granules, whose copy is durable; how many were dirty.
    fn reset(&self, py: Python<'_>, start: u64, stop: u64) -> Result<u64> {
        change!(self, py, map => map.reset(start..stop))
    }

    /// Clears the granules that lie wholly in the range; how many were dirty.
    fn reset_within(&self, py: Python<'_>, start: u64, stop: u64) -> Result<u64> {
        change!(self, py, map => map.reset_within(start..stop))
    }

    /// Clears every granule that the range touches. Loses dirt beside the range, in the granules at its ends.
    fn reset_covering(&self, py: Python<'_>, start: u64, stop: u64) -> Result<u64> {
        change!(self, py, map => map.reset_covering(start..stop))
    }

    /// Clears everything; how many granules were dirty.
    fn reset_all(&self, py: Python<'_>) -> Result<u64> {
        change!(self, py, map => WriteMap::reset_all(map))
    }

    /// Changes the length. New granules are clean; bits past the end are forgotten.
    fn truncate(&self, py: Python<'_>, len: u64) -> Result<()> {
        call(py, || match &self.kind {
            Kind::File(..) => self.alone(|mut map| {
                let done = map.truncate(len).map_err(Failure::from);
                (Place::new(map), done)
            }),
            Kind::Memory(map) => Ok(write_lock(map).truncate(len).map(drop)?),
            Kind::Set(_) => Err(Error::ReadOnly.into()),
        })
    }

    /// How many granules of a range are dirty.
    #[pyo3(signature = (start=0, stop=None))]
    fn count(&self, py: Python<'_>, start: u64, stop: Option<u64>) -> Result<u64> {
        self.ask(py, |map| map.count_range(clamped(map.geometry(), start, stop)))
    }

    /// How many items are dirty.
    #[getter]
    fn dirty_len(&self, py: Python<'_>) -> Result<u64> {
        self.ask(py, |map| Ok(map.dirty_len()))
    }

    /// Whether any item of a range is dirty.
    #[pyo3(signature = (start=0, stop=None))]
    fn any(&self, py: Python<'_>, start: u64, stop: Option<u64>) -> Result<bool> {
        self.ask(py, |map| map.any(clamped(map.geometry(), start, stop)))
    }

    /// Whether all items of a range are dirty.
    #[pyo3(signature = (start=0, stop=None))]
    fn all(&self, py: Python<'_>, start: u64, stop: Option<u64>) -> Result<bool> {
        self.ask(py, |map| map.all(clamped(map.geometry(), start, stop)))
    }

    /// The first dirty item of a range.
    #[pyo3(signature = (start=0, stop=None))]
    fn next_dirty(&self, py: Python<'_>, start: u64, stop: Option<u64>) -> Result<Option<u64>> {
        self.ask(py, |map| map.next_dirty(clamped(map.geometry(), start, stop)))
    }

    /// The first clean item of a range.
    #[pyo3(signature = (start=0, stop=None))]
    fn next_clean(&self, py: Python<'_>, start: u64, stop: Option<u64>) -> Result<Option<u64>> {
        self.ask(py, |map| map.next_clean(clamped(map.geometry(), start, stop)))
    }

    /// Whether a range begins dirty, and how many of its items are so, or clean, from there on; None of an empty one.
    #[pyo3(signature = (start=0, stop=None))]
    fn run(&self, py: Python<'_>, start: u64, stop: Option<u64>) -> Result<Option<(bool, u64)>> {
        self.ask(py, |map| map.run(clamped(map.geometry(), start, stop)))
    }

    /// The dirty extents of a range, as an iterator over (start, stop). The map may change meanwhile.
    #[pyo3(signature = (start=0, stop=None))]
    fn extents(slf: Bound<'_, Self>, start: u64, stop: Option<u64>) -> Extents {
        let stop = stop.unwrap_or(u64::MAX);
        Extents { map: slf.unbind(), cursor: Mutex::new(Cursor::new(start..stop)) }
    }

    /// The dirty extents of a range as memory: n rows of start and stop, unsigned numbers of 64 bits. numpy.asarray() takes them
    /// without a copy.
    #[pyo3(signature = (start=0, stop=None))]
    fn extents_buffer<'py>(&self, py: Python<'py>, start: u64, stop: Option<u64>) -> Result<Bound<'py, PyAny>> {
        let extents = self.listed(py, start, stop)?;
        let rows = extents.len();
        let fill = |bytes: &mut [u8]| {
            let numbers = extents.iter().flat_map(|(start, stop)| [start, stop]);
            bytes.chunks_exact_mut(8).zip(numbers).for_each(|(to, number)| to.copy_from_slice(&number.to_ne_bytes()));
            Ok(())
        };
        let bytes = PyBytes::new_with(py, rows * 16, fill)?;
        let view = PyMemoryView::from(&bytes)?;
        // Python makes no view of no rows.
        if rows == 0 {
            return Ok(view.call_method1("cast", ("Q",))?);
        }
        Ok(view.call_method1("cast", ("Q", (rows, 2)))?)
    }

    /// SHA-256 of the bits.
    fn sha256<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyBytes>> {
        let hash = call(py, || {
            let held = self.held()?;
            held.verified()?;
            // Of a map in a file, that of what is dirty here, without an outstanding checkpoint.
            let hash = with!(&held, map => map.sha256());
            held.verified().map(|()| hash)
        })?;
        Ok(PyBytes::new(py, &hash))
    }

    /// What ranges of serialize() and load() start at multiples of, and are multiples of but for the last one: 64 granules, in items.
    #[getter]
    fn serialization_align(&self, py: Python<'_>) -> Result<u64> {
        self.ask(py, |map| map.geometry().serialization_align())
    }

    /// A range as bytes, whole words of 64 granules: what load() takes.
    #[pyo3(signature = (start=0, stop=None))]
    fn serialize<'py>(&self, py: Python<'py>, start: u64, stop: Option<u64>) -> Result<Bound<'py, PyBytes>> {
        let (range, size) = self.ask(py, |map| {
            let range = start..stop.unwrap_or(map.geometry().len());
            map.serialized_size(range.clone()).map(|size| (range, size))
        })?;
        // Python's memory, of which a lack is an exception.
        let fill = |bytes: &mut [u8]| Ok(self.ask(py, |map| map.serialize_part(range, bytes))?);
        Ok(PyBytes::new_with(py, size as usize, fill)?)
    }

    /// Replaces a range by bytes of serialize(); how many granules changed.
    #[pyo3(signature = (data, start=0, stop=None))]
    fn load(&self, py: Python<'_>, data: Vec<u8>, start: u64, stop: Option<u64>) -> Result<u64> {
        let stop = stop.map_or_else(|| self.len(py), Ok)?;
        change!(self, py, map => map.load_part(start..stop, &data))
    }

    /// Marks what is dirty in another map of the same length; how many granules were clean.
    fn merge(&self, py: Python<'_>, other: &Map) -> Result<u64> {
        if self.is(other) {
            return self.as_it_is(py);
        }
        combine!(self, py, other, map, other => map.merge(other))
    }

    /// Clears what is dirty in another map of the same length and granule; how many granules were dirty.
    fn subtract(&self, py: Python<'_>, other: &Map) -> Result<u64> {
        if self.is(other) {
            return self.reset_all(py);
        }
        combine!(self, py, other, map, other => map.subtract(other))
    }

    /// Clears what is clean in another map of the same length and granule; how many granules were dirty.
    fn intersect(&self, py: Python<'_>, other: &Map) -> Result<u64> {
        if self.is(other) {
            return self.as_it_is(py);
        }
        combine!(self, py, other, map, other => map.intersect(other))
    }

    /// Whether another map can be merged into this one.
    fn can_merge(&self, py: Python<'_>, other: &Map) -> Result<bool> {
        self.ask_both(py, other, |here, there| {
            Ok(with!(there, other => match here {
                Held::File(map) => map.can_merge(other),
                Held::Memory(map) => map.can_merge(other),
                Held::Set(_) => false,
            }))
        })
    }

    /// A copy of this map with what is dirty in another map of the same length.
    fn union(&self, py: Python<'_>, other: &Map) -> Result<Py<crate::memory::Bitmap>> {
        let mut made = self.copied(py)?;
        call(py, || with!(&other.held()?, other => Ok(made.merge(other)?)))?;
        Ok(crate::memory::new(py, made)?)
    }

    /// What is dirty here and clean in another map of the same length and granule.
    fn difference(&self, py: Python<'_>, other: &Map) -> Result<Py<crate::memory::Bitmap>> {
        let made = self.ask_both(py, other, |here, there| {
            with!(there, other => match here {
                Held::File(map) => map.difference(other),
                Held::Memory(map) => map.difference(other),
                Held::Set(map) => Bitmap::copy_of(*map)?.difference(other),
            })
        })?;
        Ok(crate::memory::new(py, made)?)
    }

    /// What is dirty in both, this map and another one of the same length and granule.
    fn intersection(&self, py: Python<'_>, other: &Map) -> Result<Py<crate::memory::Bitmap>> {
        let made = self.ask_both(py, other, |here, there| {
            with!(there, other => match here {
                Held::File(map) => map.intersection(other),
                Held::Memory(map) => map.intersection(other),
                Held::Set(map) => Bitmap::copy_of(*map)?.intersection(other),
            })
        })?;
        Ok(crate::memory::new(py, made)?)
    }

    /// Whether two maps have the same length, granule and dirt.
    fn equals(&self, py: Python<'_>, other: &Map) -> Result<bool> {
        self.ask_both(py, other, |here, there| {
            let (here, there) = (here.get(), there.get());
            let same = || extents(here, 0..u64::MAX).eq(extents(there, 0..u64::MAX));
            Ok(here.geometry() == there.geometry() && same())
        })
    }

    /// Attaches a change bitmap with a bit for each chunk of 2**chunk granules.
    fn attach_changes(&self, py: Python<'_>, chunk: u32) -> Result<()> {
        change!(self, py, map => map.attach_changes(chunk))
    }

    /// Drops the change bitmap, if there is one.
    fn detach_changes(&self, py: Python<'_>) -> Result<()> {
        let memory = |map: &mut Bitmap| {
            map.detach_changes();
            Ok(())
        };
        self.change(py, |map| map.detach_changes(), memory)
    }

    /// Whether anything has changed; not if no change bitmap is attached.
    fn has_changes(&self, py: Python<'_>) -> Result<bool> {
        self.change(py, |map| map.has_changes(), |map| Ok(map.has_changes()))
    }

    /// What has changed, which stays; None if no change bitmap is attached.
    fn changes(&self, py: Python<'_>) -> Result<Option<Py<crate::memory::Bitmap>>> {
        let found = self.change(py, |map| map.changes(), |map| map.changes().map(Bitmap::try_clone).transpose())?;
        Ok(found.map(|found| crate::memory::new(py, found)).transpose()?)
    }

    /// Forgets what has changed in the chunks that lie wholly in a range.
    fn clear_changes(&self, py: Python<'_>, start: u64, stop: u64) -> Result<()> {
        change!(self, py, map => map.clear_changes(start..stop))
    }

    /// What has changed since this was last asked; None if no change bitmap is attached.
    fn take_changes(&self, py: Python<'_>) -> Result<Option<Py<crate::memory::Bitmap>>> {
        let taken = change!(self, py, map => map.take_changes())?;
        Ok(taken.map(|taken| crate::memory::new(py, taken)).transpose()?)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        match &self.kind {
            Kind::File(_, told) => told.traverse(visit),
            Kind::Memory(_) | Kind::Set(_) => Ok(()),
        }
    }

    fn __clear__(&self) {
        if let Kind::File(_, told) = &self.kind {
            told.clear();
        }
    }

    fn __repr__(slf: Bound<'_, Self>) -> Result<String> {
        let name = slf.get_type().name()?;
        let shape = match slf.get().shape(slf.py()) {
            Ok(shape) => shape,
            Err(Failure::Closed) => return Ok(format!("<{name}, closed>")),
            Err(other) => return Err(other),
        };
        Ok(format!("<{name} of {} items in granules of {}>", shape.len(), shape.granule()))
    }
}

/// The dirty extents of a map, as (start, stop).
#[pyclass(frozen, module = "dirtymap")]
pub struct Extents {
    map: Py<Map>,
    cursor: Mutex<Cursor>,
}

#[pymethods]
impl Extents {
    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&self.map)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> Result<Option<(u64, u64)>> {
        self.map.get().ask(py, |map| {
            let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(cursor.next_extent(map).map(|found| (found.start, found.end)))
        })
    }
}

/// The message for a second use of what is over.
pub(crate) fn over(what: &str) -> PyErr {
    PyValueError::new_err(format!("the {what} is over"))
}
