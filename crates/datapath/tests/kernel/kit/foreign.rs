//! A program of another owner at a link.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use libbpf_rs::libbpf_sys;

/// Attaches a program to tcx, for frames from the pod, that lets everything pass whatever programs follow.
#[expect(unsafe_code, reason = "the library loads programs from files alone")]
pub(crate) fn let_all_pass(index: u32) {
    // `r0 = 0` (`TCX_PASS`), `exit`.
    let instructions = [
        libbpf_sys::bpf_insn { code: 0xb7, ..Default::default() },
        libbpf_sys::bpf_insn { code: 0x95, ..Default::default() },
    ];
    // SAFETY: names and instructions live until the calls return; the descriptor is nobody else's.
    let program = unsafe {
        let program = libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_SCHED_CLS,
            c"somebody".as_ptr(),
            c"GPL".as_ptr(),
            instructions.as_ptr(),
            instructions.len() as _,
            std::ptr::null_mut(),
        );
        assert!(program >= 0, "a program of two instructions is loaded");
        OwnedFd::from_raw_fd(program)
    };
    // SAFETY: the call takes numbers only.
    let attached = unsafe {
        libbpf_sys::bpf_prog_attach_opts(
            program.as_raw_fd(),
            index.try_into().unwrap(),
            libbpf_sys::BPF_TCX_INGRESS,
            std::ptr::null(),
        )
    };
    assert_eq!(attached, 0);
}
