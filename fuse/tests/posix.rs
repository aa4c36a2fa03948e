//! The pjdfstest suite, through kernel and adapter.

use nexusgrid_fuse::MountOptions;

use crate::mounted::Mounted;
use crate::pjdfstest;

fn run(options: MountOptions) {
    let options = MountOptions { suid: true, dev: true, ..options };
    let mounted = Mounted::new(options);
    let ran = pjdfstest::run(mounted.dir.path(), &[]);
    assert!(ran.failed.is_empty() && ran.cases >= 390, "{ran:?}");
}

#[test]
fn pjdfstest_passes() {
    run(MountOptions::default());
}

#[test]
fn pjdfstest_passes_with_kernel_write_back() {
    run(MountOptions { kernel_write_back: true, ..MountOptions::default() });
}
