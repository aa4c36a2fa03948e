//! Clocks that are wrong.

use std::time::Duration;

use futures_util::StreamExt;
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;
use nexusgrid_grid::{DeleteRequest, Precondition};

use super::{holds, knobs, with_objects};
use crate::simulation::clients;
use crate::simulation::cluster::Shape;

/// Row 15: where an object is deleted, the clock is two hours behind: who reads it reads it to its end,
/// for what it waits in the outbox is measured by another clock.
#[test]
fn what_a_wrong_clock_deletes_waits_for_its_readers() {
    const BYTES: usize = 4 << 20;
    let world = World::new(15);
    let told = world.run(async {
        let (cluster, tide) = with_objects(&world, knobs(15), Shape::default(), 1).await?;
        let (reader, behind) = (NodeId(1), NodeId(2));
        let bytes = clients::content_of(7, BYTES);
        let member = cluster.member(reader).ok_or("the reader is gone")?;
        let put = clients::put_bytes(member.grid.clone(), "ebb", "long", &bytes, 7);
        put.await.map_err(|error| error.to_string())?;
        world.set_wall_skew(behind, -7_200_000);
        let mut got =
            member.grid.get("ebb", "long", None).await.map_err(|error| error.to_string())?;
        let first = got.body.next().await;
        first.ok_or("an empty body")?.map_err(|error| error.to_string())?;
        let request = DeleteRequest {
            bucket: "ebb".to_owned(),
            key: "long".to_owned(),
            precondition: Precondition::default(),
        };
        let other = cluster.member(behind).ok_or("the other is gone")?;
        other.grid.delete(request).await.map_err(|error| error.to_string())?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        while let Some(chunk) = got.body.next().await {
            chunk.map_err(|error| format!("the reader hears: {error}"))?;
        }
        tide.check(behind).await
    });
    holds(&world, told);
}
