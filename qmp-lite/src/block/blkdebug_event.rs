//! The events that arm `blkdebug` rules, by QEMU's names.
//!
//! Knows no rule. Most of them come from format drivers only.

use crate::schema::qapi_enum;

qapi_enum! {
    /// Where in a driver above something happens that can arm a rule.
    pub enum BlkdebugEvent "BlkdebugEvent" {
        /// `l1_update` of a format driver above.
        L1Update = "l1_update",
        /// `l1_grow_alloc_table` of a format driver above.
        L1GrowAllocTable = "l1_grow_alloc_table",
        /// `l1_grow_write_table` of a format driver above.
        L1GrowWriteTable = "l1_grow_write_table",
        /// `l1_grow_activate_table` of a format driver above.
        L1GrowActivateTable = "l1_grow_activate_table",
        /// `l2_load` of a format driver above.
        L2Load = "l2_load",
        /// `l2_update` of a format driver above.
        L2Update = "l2_update",
        /// `l2_update_compressed` of a format driver above.
        L2UpdateCompressed = "l2_update_compressed",
        /// `l2_alloc_cow_read` of a format driver above.
        L2AllocCowRead = "l2_alloc_cow_read",
        /// `l2_alloc_write` of a format driver above.
        L2AllocWrite = "l2_alloc_write",
        /// A read of a `raw` node above.
        ReadAio = "read_aio",
        /// `read_backing_aio` of a format driver above.
        ReadBackingAio = "read_backing_aio",
        /// `read_compressed` of a format driver above.
        ReadCompressed = "read_compressed",
        /// A write of a `raw` node above.
        WriteAio = "write_aio",
        /// `write_compressed` of a format driver above.
        WriteCompressed = "write_compressed",
        /// `vmstate_load` of a format driver above.
        VmstateLoad = "vmstate_load",
        /// `vmstate_save` of a format driver above.
        VmstateSave = "vmstate_save",
        /// `cow_read` of a format driver above.
        CowRead = "cow_read",
        /// `cow_write` of a format driver above.
        CowWrite = "cow_write",
        /// `reftable_load` of a format driver above.
        ReftableLoad = "reftable_load",
        /// `reftable_grow` of a format driver above.
        ReftableGrow = "reftable_grow",
        /// `reftable_update` of a format driver above.
        ReftableUpdate = "reftable_update",
        /// `refblock_load` of a format driver above.
        RefblockLoad = "refblock_load",
        /// `refblock_update` of a format driver above.
        RefblockUpdate = "refblock_update",
        /// `refblock_update_part` of a format driver above.
        RefblockUpdatePart = "refblock_update_part",
        /// `refblock_alloc` of a format driver above.
        RefblockAlloc = "refblock_alloc",
        /// `refblock_alloc_hookup` of a format driver above.
        RefblockAllocHookup = "refblock_alloc_hookup",
        /// `refblock_alloc_write` of a format driver above.
        RefblockAllocWrite = "refblock_alloc_write",
        /// `refblock_alloc_write_blocks` of a format driver above.
        RefblockAllocWriteBlocks = "refblock_alloc_write_blocks",
        /// `refblock_alloc_write_table` of a format driver above.
        RefblockAllocWriteTable = "refblock_alloc_write_table",
        /// `refblock_alloc_switch_table` of a format driver above.
        RefblockAllocSwitchTable = "refblock_alloc_switch_table",
        /// `cluster_alloc` of a format driver above.
        ClusterAlloc = "cluster_alloc",
        /// `cluster_alloc_bytes` of a format driver above.
        ClusterAllocBytes = "cluster_alloc_bytes",
        /// `cluster_free` of a format driver above.
        ClusterFree = "cluster_free",
        /// `flush_to_os` of a format driver above.
        FlushToOs = "flush_to_os",
        /// `flush_to_disk` of a format driver above.
        FlushToDisk = "flush_to_disk",
        /// `pwritev_rmw_head` of a format driver above.
        PwritevRmwHead = "pwritev_rmw_head",
        /// `pwritev_rmw_after_head` of a format driver above.
        PwritevRmwAfterHead = "pwritev_rmw_after_head",
        /// `pwritev_rmw_tail` of a format driver above.
        PwritevRmwTail = "pwritev_rmw_tail",
        /// `pwritev_rmw_after_tail` of a format driver above.
        PwritevRmwAfterTail = "pwritev_rmw_after_tail",
        /// `pwritev` of a format driver above.
        Pwritev = "pwritev",
        /// `pwritev_zero` of a format driver above.
        PwritevZero = "pwritev_zero",
        /// `pwritev_done` of a format driver above.
        PwritevDone = "pwritev_done",
        /// `empty_image_prepare` of a format driver above.
        EmptyImagePrepare = "empty_image_prepare",
        /// `l1_shrink_write_table` of a format driver above.
        L1ShrinkWriteTable = "l1_shrink_write_table",
        /// `l1_shrink_free_l2_clusters` of a format driver above.
        L1ShrinkFreeL2Clusters = "l1_shrink_free_l2_clusters",
        /// `cor_write` of a format driver above.
        CorWrite = "cor_write",
        /// `cluster_alloc_space` of a format driver above.
        ClusterAllocSpace = "cluster_alloc_space",
        /// No event: the rule is armed from the start.
        None = "none",
    }
}
