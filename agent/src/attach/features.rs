//! What this kernel can do: tried once, at load, never parsed from a version.

use anyhow::{Context as _, Result};
use aya::programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{BpfHelper, is_helper_supported};

use super::checksum_field::ChecksumField;

/// What programs and attachments make use of where the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `bpf_set_retval` (Linux 5.18): a refused connection reads ECONNREFUSED and not EPERM.
    pub set_retval: bool,
    /// `bpf_ktime_get_coarse_ns` (Linux 5.11): a cheaper clock.
    pub coarse_clock: bool,
    /// TCX links (Linux 6.6).
    pub tcx: bool,
    /// Packets can be handed over to pods by `bpf_redirect_peer`. Linux 5.10 has it, but there a
    /// question handed over was seen to get lost; told by `bpf_set_retval`, which came with 5.18.
    pub redirect_peer: bool,
    /// Programs can see whether a packet's checksum is left to a device (Linux 6.2).
    pub checksum_field: Option<ChecksumField>,
}

impl Features {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// The kernel does not let us ask, which mostly means missing privileges.
    pub fn probe() -> Result<Self> {
        let set_retval = helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)?;
        Ok(Self {
            set_retval,
            coarse_clock: helper(
                ProgramType::SchedClassifier,
                BpfHelper::BPF_FUNC_ktime_get_coarse_ns,
            )?,
            tcx: tcx()?,
            redirect_peer: set_retval
                && helper(
                    ProgramType::SchedClassifier,
                    BpfHelper::BPF_FUNC_redirect_peer,
                )?,
            checksum_field: ChecksumField::probe(),
        })
    }

    /// The global `FEATURES` of the programs.
    #[must_use]
    pub fn bits(self) -> u32 {
        let Self {
            set_retval,
            coarse_clock,
            tcx: _,
            redirect_peer: _,
            checksum_field: _,
        } = self;
        u32::from(set_retval) | u32::from(coarse_clock) << 1
    }
}

fn helper(program: ProgramType, helper: BpfHelper) -> Result<bool> {
    is_helper_supported(program, helper).with_context(|| {
        format!("ask the kernel for {helper:?} (this needs CAP_BPF and CAP_NET_ADMIN, or root)")
    })
}

/// Every network namespace has a loopback interface, whose list of programs an older kernel
/// knows nothing of.
fn tcx() -> Result<bool> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(ProgramError::SyscallError(error))
            if matches!(
                error.io_error.raw_os_error(),
                Some(libc::EINVAL | libc::E2BIG)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).context("ask the kernel for TCX"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_are_those_that_the_programs_read() {
        let none = Features {
            set_retval: false,
            coarse_clock: false,
            tcx: true,
            redirect_peer: true,
            checksum_field: None,
        };
        assert_eq!(none.bits(), 0);
        assert_eq!(
            Features {
                set_retval: true,
                ..none
            }
            .bits(),
            1
        );
        assert_eq!(
            Features {
                coarse_clock: true,
                ..none
            }
            .bits(),
            2
        );
    }
}
