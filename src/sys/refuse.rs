//! Has the kernel refuse system calls, for tests of what happens where a file system cannot do something.
#![cfg(test)]

/// Calls that are refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    /// The number of the call.
    pub call: libc::c_long,
    /// Only where these bits (the second) of this argument (the first) are these (the third). Of the lower half.
    pub argument: Option<(u32, u32, u32)>,
    /// With which error.
    pub error: libc::c_int,
}

impl Refused {
    /// The same as a program for the kernel: four words a step, jumps are relative.
    fn program(&self) -> Vec<libc::sock_filter> {
        const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        const IS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
        const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
        let step = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
        let refuse = step(RETURN, 0, libc::SECCOMP_RET_ERRNO | self.error as u32);
        let mut program = vec![step(LOAD, 0, 0)];
        match self.argument {
            None => program.extend([step(IS, 1, self.call as u32), refuse]),
            Some((index, bits, value)) => program.extend([
                step(IS, 4, self.call as u32),
                step(LOAD, 0, 16 + 8 * index),
                step(AND, 0, bits),
                step(IS, 1, value),
                refuse,
            ]),
        }
        program.push(step(RETURN, 0, libc::SECCOMP_RET_ALLOW));
        program
    }
}

/// Runs `f` in a thread of its own, for which and for whose children the kernel refuses some calls. Skips it where the
/// kernel has no such filters, and says so.
pub(crate) fn refusing<R: Send>(calls: &[Refused], f: impl FnOnce() -> R + Send) -> Option<R> {
    let run = || {
        for refused in calls {
            let mut program = refused.program();
            let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
            // SAFETY: a plain request, and a program that lives during the call. Both are about this thread only.
            let set = unsafe {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                    && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) == 0
            };
            if !set {
                eprintln!("SKIPPED: this kernel refuses to refuse calls: {}", std::io::Error::last_os_error());
                return None;
            }
        }
        Some(f())
    };
    let done = std::thread::scope(|scope| scope.spawn(run).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
