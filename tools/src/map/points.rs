//! Points that are kept by name.

use dirtymap::DirtyMap;
use dirtymap_cli::set_json::point_of;

/// Drops the oldest names beyond so many, and says which. The points that backup sets keep, one each, are none of these.
pub fn keep_last(map: &DirtyMap, most: u64) -> dirtymap::Result<Vec<String>> {
    let names: Vec<String> =
        map.points()?.into_iter().map(|point| point.name).filter(|name| point_of(name).is_none()).collect();
    let beyond = names.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
    names.into_iter().take(beyond).map(|name| map.drop_point(&name).map(|()| name)).collect()
}
