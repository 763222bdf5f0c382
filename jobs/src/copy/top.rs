//! What a backup of the topmost image alone leaves out: all that the images below have. Copies nothing.

use crate::context::JobContext;
use crate::copy::check_whole;
use crate::error::JobFailure;
use std::sync::Arc;
use tidemark_backend::node::copy_before_write::CopyBeforeWrite;

/// Owes no more what the topmost image did not have at the point in time. Guests' writes leave it out, too, until this has
/// ended.
///
/// # Errors
/// The job was cancelled; the storage's.
pub async fn leave_out_below(ctx: &JobContext, copy: &Arc<CopyBeforeWrite>) -> Result<(), JobFailure> {
    let (map, mut from) = (copy.map(), 0);
    while let Some(offset) = map.next_owed(from) {
        ctx.pause_point().await?;
        check_whole(copy)?;
        let (end, own) = copy.top_run(ctx.io(), offset).await?;
        from = end;
        if own {
            continue;
        }
        // A write may have come first, so it is looked at again, now that none can.
        while let Some(run) = map.claim(offset, end - offset, u64::MAX) {
            let looked = copy.is_of_top(ctx.io(), run.clone()).await;
            let own = *looked.as_ref().unwrap_or(&true);
            copy.settle_below(run, own);
            if looked? {
                break;
            }
        }
    }
    copy.copy_all_of_it();
    Ok(())
}
