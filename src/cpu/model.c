/*
 * The table of feature names, and the models; see model.h.
 *
 * Bits: SDM 2A CPUID, APM 3 appendix E.  The real models' lists are those under the same names in
 * QEMU and libvirt (whose "noTSX" Haswell is ours), so that a guest moves between them; the
 * x86-64-v1 to v4 models are the psABI's micro-architecture levels, with what an operating system
 * wants besides and every processor of that level has.
 */
#include "cpu/model.h"

#include "base/bits.h"

#include <string.h>

/* clang-format off */
const struct cpu_feature cpu_features[] = {
	{ "pni", 0x1, 0, CPUID_ECX, 0 },
	{ "sse3", 0x1, 0, CPUID_ECX, 0 },
	{ "pclmuldq", 0x1, 0, CPUID_ECX, 1 },
	{ "pclmulqdq", 0x1, 0, CPUID_ECX, 1 },
	{ "dtes64", 0x1, 0, CPUID_ECX, 2 },
	{ "monitor", 0x1, 0, CPUID_ECX, 3 },
	{ "ds_cpl", 0x1, 0, CPUID_ECX, 4 },
	{ "ds-cpl", 0x1, 0, CPUID_ECX, 4 },
	{ "vmx", 0x1, 0, CPUID_ECX, 5 },
	{ "smx", 0x1, 0, CPUID_ECX, 6 },
	{ "est", 0x1, 0, CPUID_ECX, 7 },
	{ "tm2", 0x1, 0, CPUID_ECX, 8 },
	{ "ssse3", 0x1, 0, CPUID_ECX, 9 },
	{ "cid", 0x1, 0, CPUID_ECX, 10 },
	{ "sdbg", 0x1, 0, CPUID_ECX, 11 },
	{ "fma", 0x1, 0, CPUID_ECX, 12 },
	{ "cx16", 0x1, 0, CPUID_ECX, 13 },
	{ "xtpr", 0x1, 0, CPUID_ECX, 14 },
	{ "pdcm", 0x1, 0, CPUID_ECX, 15 },
	{ "pcid", 0x1, 0, CPUID_ECX, 17 },
	{ "dca", 0x1, 0, CPUID_ECX, 18 },
	{ "sse4.1", 0x1, 0, CPUID_ECX, 19 },
	{ "sse4_1", 0x1, 0, CPUID_ECX, 19 },
	{ "sse4-1", 0x1, 0, CPUID_ECX, 19 },
	{ "sse4.2", 0x1, 0, CPUID_ECX, 20 },
	{ "sse4_2", 0x1, 0, CPUID_ECX, 20 },
	{ "sse4-2", 0x1, 0, CPUID_ECX, 20 },
	{ "x2apic", 0x1, 0, CPUID_ECX, 21 },
	{ "movbe", 0x1, 0, CPUID_ECX, 22 },
	{ "popcnt", 0x1, 0, CPUID_ECX, 23 },
	{ "tsc-deadline", 0x1, 0, CPUID_ECX, 24 },
	{ "tsc_deadline_timer", 0x1, 0, CPUID_ECX, 24 },
	{ "aes", 0x1, 0, CPUID_ECX, 25 },
	{ "xsave", 0x1, 0, CPUID_ECX, 26 },
	{ "osxsave", 0x1, 0, CPUID_ECX, 27 },
	{ "avx", 0x1, 0, CPUID_ECX, 28 },
	{ "f16c", 0x1, 0, CPUID_ECX, 29 },
	{ "rdrand", 0x1, 0, CPUID_ECX, 30 },
	{ "hypervisor", 0x1, 0, CPUID_ECX, 31 },
	{ "fpu", 0x1, 0, CPUID_EDX, 0 },
	{ "vme", 0x1, 0, CPUID_EDX, 1 },
	{ "de", 0x1, 0, CPUID_EDX, 2 },
	{ "pse", 0x1, 0, CPUID_EDX, 3 },
	{ "tsc", 0x1, 0, CPUID_EDX, 4 },
	{ "msr", 0x1, 0, CPUID_EDX, 5 },
	{ "pae", 0x1, 0, CPUID_EDX, 6 },
	{ "mce", 0x1, 0, CPUID_EDX, 7 },
	{ "cx8", 0x1, 0, CPUID_EDX, 8 },
	{ "apic", 0x1, 0, CPUID_EDX, 9 },
	{ "sep", 0x1, 0, CPUID_EDX, 11 },
	{ "mtrr", 0x1, 0, CPUID_EDX, 12 },
	{ "pge", 0x1, 0, CPUID_EDX, 13 },
	{ "mca", 0x1, 0, CPUID_EDX, 14 },
	{ "cmov", 0x1, 0, CPUID_EDX, 15 },
	{ "pat", 0x1, 0, CPUID_EDX, 16 },
	{ "pse36", 0x1, 0, CPUID_EDX, 17 },
	{ "pn", 0x1, 0, CPUID_EDX, 18 },
	{ "clflush", 0x1, 0, CPUID_EDX, 19 },
	{ "clfsh", 0x1, 0, CPUID_EDX, 19 },
	{ "ds", 0x1, 0, CPUID_EDX, 21 },
	{ "dts", 0x1, 0, CPUID_EDX, 21 },
	{ "acpi", 0x1, 0, CPUID_EDX, 22 },
	{ "mmx", 0x1, 0, CPUID_EDX, 23 },
	{ "fxsr", 0x1, 0, CPUID_EDX, 24 },
	{ "sse", 0x1, 0, CPUID_EDX, 25 },
	{ "sse2", 0x1, 0, CPUID_EDX, 26 },
	{ "ss", 0x1, 0, CPUID_EDX, 27 },
	{ "ht", 0x1, 0, CPUID_EDX, 28 },
	{ "tm", 0x1, 0, CPUID_EDX, 29 },
	{ "ia64", 0x1, 0, CPUID_EDX, 30 },
	{ "pbe", 0x1, 0, CPUID_EDX, 31 },
	{ "arat", 0x6, 0, CPUID_EAX, 2 },
	{ "fsgsbase", 0x7, 0, CPUID_EBX, 0 },
	{ "tsc_adjust", 0x7, 0, CPUID_EBX, 1 },
	{ "tsc-adjust", 0x7, 0, CPUID_EBX, 1 },
	{ "sgx", 0x7, 0, CPUID_EBX, 2 },
	{ "bmi1", 0x7, 0, CPUID_EBX, 3 },
	{ "hle", 0x7, 0, CPUID_EBX, 4 },
	{ "avx2", 0x7, 0, CPUID_EBX, 5 },
	{ "fdp-excptn-only", 0x7, 0, CPUID_EBX, 6 },
	{ "smep", 0x7, 0, CPUID_EBX, 7 },
	{ "bmi2", 0x7, 0, CPUID_EBX, 8 },
	{ "erms", 0x7, 0, CPUID_EBX, 9 },
	{ "invpcid", 0x7, 0, CPUID_EBX, 10 },
	{ "rtm", 0x7, 0, CPUID_EBX, 11 },
	{ "zero-fcs-fds", 0x7, 0, CPUID_EBX, 13 },
	{ "mpx", 0x7, 0, CPUID_EBX, 14 },
	{ "rdt_a", 0x7, 0, CPUID_EBX, 15 },
	{ "avx512f", 0x7, 0, CPUID_EBX, 16 },
	{ "avx512dq", 0x7, 0, CPUID_EBX, 17 },
	{ "rdseed", 0x7, 0, CPUID_EBX, 18 },
	{ "adx", 0x7, 0, CPUID_EBX, 19 },
	{ "smap", 0x7, 0, CPUID_EBX, 20 },
	{ "avx512ifma", 0x7, 0, CPUID_EBX, 21 },
	{ "avx512-ifma", 0x7, 0, CPUID_EBX, 21 },
	{ "clflushopt", 0x7, 0, CPUID_EBX, 23 },
	{ "clwb", 0x7, 0, CPUID_EBX, 24 },
	{ "intel-pt", 0x7, 0, CPUID_EBX, 25 },
	{ "avx512pf", 0x7, 0, CPUID_EBX, 26 },
	{ "avx512er", 0x7, 0, CPUID_EBX, 27 },
	{ "avx512cd", 0x7, 0, CPUID_EBX, 28 },
	{ "sha-ni", 0x7, 0, CPUID_EBX, 29 },
	{ "sha_ni", 0x7, 0, CPUID_EBX, 29 },
	{ "avx512bw", 0x7, 0, CPUID_EBX, 30 },
	{ "avx512vl", 0x7, 0, CPUID_EBX, 31 },
	{ "prefetchwt1", 0x7, 0, CPUID_ECX, 0 },
	{ "avx512vbmi", 0x7, 0, CPUID_ECX, 1 },
	{ "avx512-vbmi", 0x7, 0, CPUID_ECX, 1 },
	{ "umip", 0x7, 0, CPUID_ECX, 2 },
	{ "pku", 0x7, 0, CPUID_ECX, 3 },
	{ "ospke", 0x7, 0, CPUID_ECX, 4 },
	{ "waitpkg", 0x7, 0, CPUID_ECX, 5 },
	{ "avx512vbmi2", 0x7, 0, CPUID_ECX, 6 },
	{ "avx512_vbmi2", 0x7, 0, CPUID_ECX, 6 },
	{ "shstk", 0x7, 0, CPUID_ECX, 7 },
	{ "gfni", 0x7, 0, CPUID_ECX, 8 },
	{ "vaes", 0x7, 0, CPUID_ECX, 9 },
	{ "vpclmulqdq", 0x7, 0, CPUID_ECX, 10 },
	{ "avx512vnni", 0x7, 0, CPUID_ECX, 11 },
	{ "avx512_vnni", 0x7, 0, CPUID_ECX, 11 },
	{ "avx512bitalg", 0x7, 0, CPUID_ECX, 12 },
	{ "avx512_bitalg", 0x7, 0, CPUID_ECX, 12 },
	{ "tme", 0x7, 0, CPUID_ECX, 13 },
	{ "avx512-vpopcntdq", 0x7, 0, CPUID_ECX, 14 },
	{ "avx512_vpopcntdq", 0x7, 0, CPUID_ECX, 14 },
	{ "la57", 0x7, 0, CPUID_ECX, 16 },
	{ "rdpid", 0x7, 0, CPUID_ECX, 22 },
	{ "bus-lock-detect", 0x7, 0, CPUID_ECX, 24 },
	{ "cldemote", 0x7, 0, CPUID_ECX, 25 },
	{ "movdiri", 0x7, 0, CPUID_ECX, 27 },
	{ "movdir64b", 0x7, 0, CPUID_ECX, 28 },
	{ "enqcmd", 0x7, 0, CPUID_ECX, 29 },
	{ "sgxlc", 0x7, 0, CPUID_ECX, 30 },
	{ "pks", 0x7, 0, CPUID_ECX, 31 },
	{ "avx512-4vnniw", 0x7, 0, CPUID_EDX, 2 },
	{ "avx512-4fmaps", 0x7, 0, CPUID_EDX, 3 },
	{ "fsrm", 0x7, 0, CPUID_EDX, 4 },
	{ "avx512-vp2intersect", 0x7, 0, CPUID_EDX, 8 },
	{ "avx512_vp2intersect", 0x7, 0, CPUID_EDX, 8 },
	{ "srbds-ctrl", 0x7, 0, CPUID_EDX, 9 },
	{ "md-clear", 0x7, 0, CPUID_EDX, 10 },
	{ "md_clear", 0x7, 0, CPUID_EDX, 10 },
	{ "tsx-force-abort", 0x7, 0, CPUID_EDX, 13 },
	{ "serialize", 0x7, 0, CPUID_EDX, 14 },
	{ "hybrid", 0x7, 0, CPUID_EDX, 15 },
	{ "tsx-ldtrk", 0x7, 0, CPUID_EDX, 16 },
	{ "pconfig", 0x7, 0, CPUID_EDX, 18 },
	{ "arch-lbr", 0x7, 0, CPUID_EDX, 19 },
	{ "ibt", 0x7, 0, CPUID_EDX, 20 },
	{ "amx-bf16", 0x7, 0, CPUID_EDX, 22 },
	{ "avx512-fp16", 0x7, 0, CPUID_EDX, 23 },
	{ "amx-tile", 0x7, 0, CPUID_EDX, 24 },
	{ "amx-int8", 0x7, 0, CPUID_EDX, 25 },
	{ "spec-ctrl", 0x7, 0, CPUID_EDX, 26 },
	{ "stibp", 0x7, 0, CPUID_EDX, 27 },
	{ "flush-l1d", 0x7, 0, CPUID_EDX, 28 },
	{ "flush_l1d", 0x7, 0, CPUID_EDX, 28 },
	{ "arch-capabilities", 0x7, 0, CPUID_EDX, 29 },
	{ "arch_capabilities", 0x7, 0, CPUID_EDX, 29 },
	{ "core-capability", 0x7, 0, CPUID_EDX, 30 },
	{ "ssbd", 0x7, 0, CPUID_EDX, 31 },
	{ "sha512", 0x7, 1, CPUID_EAX, 0 },
	{ "sm3", 0x7, 1, CPUID_EAX, 1 },
	{ "sm4", 0x7, 1, CPUID_EAX, 2 },
	{ "avx-vnni", 0x7, 1, CPUID_EAX, 4 },
	{ "avx_vnni", 0x7, 1, CPUID_EAX, 4 },
	{ "avx512-bf16", 0x7, 1, CPUID_EAX, 5 },
	{ "avx512_bf16", 0x7, 1, CPUID_EAX, 5 },
	{ "cmpccxadd", 0x7, 1, CPUID_EAX, 7 },
	{ "fzrm", 0x7, 1, CPUID_EAX, 10 },
	{ "fsrs", 0x7, 1, CPUID_EAX, 11 },
	{ "fsrc", 0x7, 1, CPUID_EAX, 12 },
	{ "fred", 0x7, 1, CPUID_EAX, 17 },
	{ "lkgs", 0x7, 1, CPUID_EAX, 18 },
	{ "wrmsrns", 0x7, 1, CPUID_EAX, 19 },
	{ "amx-fp16", 0x7, 1, CPUID_EAX, 21 },
	{ "avx-ifma", 0x7, 1, CPUID_EAX, 23 },
	{ "lam", 0x7, 1, CPUID_EAX, 26 },
	{ "avx-vnni-int8", 0x7, 1, CPUID_EDX, 4 },
	{ "avx-ne-convert", 0x7, 1, CPUID_EDX, 5 },
	{ "amx-complex", 0x7, 1, CPUID_EDX, 8 },
	{ "avx-vnni-int16", 0x7, 1, CPUID_EDX, 10 },
	{ "prefetchiti", 0x7, 1, CPUID_EDX, 14 },
	{ "avx10", 0x7, 1, CPUID_EDX, 19 },
	{ "intel-psfd", 0x7, 2, CPUID_EDX, 0 },
	{ "ipred-ctrl", 0x7, 2, CPUID_EDX, 1 },
	{ "rrsba-ctrl", 0x7, 2, CPUID_EDX, 2 },
	{ "ddpd-u", 0x7, 2, CPUID_EDX, 3 },
	{ "bhi-ctrl", 0x7, 2, CPUID_EDX, 4 },
	{ "mcdt-no", 0x7, 2, CPUID_EDX, 5 },
	{ "xsaveopt", 0xd, 1, CPUID_EAX, 0 },
	{ "xsavec", 0xd, 1, CPUID_EAX, 1 },
	{ "xgetbv1", 0xd, 1, CPUID_EAX, 2 },
	{ "xsaves", 0xd, 1, CPUID_EAX, 3 },
	{ "xfd", 0xd, 1, CPUID_EAX, 4 },
	{ "intel-pt-lip", 0x14, 0, CPUID_ECX, 31 },
	{ "lahf_lm", 0x80000001, 0, CPUID_ECX, 0 },
	{ "lahf-lm", 0x80000001, 0, CPUID_ECX, 0 },
	{ "cmp_legacy", 0x80000001, 0, CPUID_ECX, 1 },
	{ "cmp-legacy", 0x80000001, 0, CPUID_ECX, 1 },
	{ "svm", 0x80000001, 0, CPUID_ECX, 2 },
	{ "extapic", 0x80000001, 0, CPUID_ECX, 3 },
	{ "cr8legacy", 0x80000001, 0, CPUID_ECX, 4 },
	{ "cr8_legacy", 0x80000001, 0, CPUID_ECX, 4 },
	{ "abm", 0x80000001, 0, CPUID_ECX, 5 },
	{ "lzcnt", 0x80000001, 0, CPUID_ECX, 5 },
	{ "sse4a", 0x80000001, 0, CPUID_ECX, 6 },
	{ "misalignsse", 0x80000001, 0, CPUID_ECX, 7 },
	{ "3dnowprefetch", 0x80000001, 0, CPUID_ECX, 8 },
	{ "osvw", 0x80000001, 0, CPUID_ECX, 9 },
	{ "ibs", 0x80000001, 0, CPUID_ECX, 10 },
	{ "xop", 0x80000001, 0, CPUID_ECX, 11 },
	{ "skinit", 0x80000001, 0, CPUID_ECX, 12 },
	{ "wdt", 0x80000001, 0, CPUID_ECX, 13 },
	{ "lwp", 0x80000001, 0, CPUID_ECX, 15 },
	{ "fma4", 0x80000001, 0, CPUID_ECX, 16 },
	{ "tce", 0x80000001, 0, CPUID_ECX, 17 },
	{ "nodeid_msr", 0x80000001, 0, CPUID_ECX, 19 },
	{ "nodeid-msr", 0x80000001, 0, CPUID_ECX, 19 },
	{ "tbm", 0x80000001, 0, CPUID_ECX, 21 },
	{ "topoext", 0x80000001, 0, CPUID_ECX, 22 },
	{ "perfctr_core", 0x80000001, 0, CPUID_ECX, 23 },
	{ "perfctr-core", 0x80000001, 0, CPUID_ECX, 23 },
	{ "perfctr_nb", 0x80000001, 0, CPUID_ECX, 24 },
	{ "perfctr-nb", 0x80000001, 0, CPUID_ECX, 24 },
	{ "bpext", 0x80000001, 0, CPUID_ECX, 26 },
	{ "perfctr_llc", 0x80000001, 0, CPUID_ECX, 28 },
	{ "mwaitx", 0x80000001, 0, CPUID_ECX, 29 },
	{ "syscall", 0x80000001, 0, CPUID_EDX, 11 },
	{ "mp", 0x80000001, 0, CPUID_EDX, 19 },
	{ "nx", 0x80000001, 0, CPUID_EDX, 20 },
	{ "xd", 0x80000001, 0, CPUID_EDX, 20 },
	{ "mmxext", 0x80000001, 0, CPUID_EDX, 22 },
	{ "fxsr_opt", 0x80000001, 0, CPUID_EDX, 25 },
	{ "ffxsr", 0x80000001, 0, CPUID_EDX, 25 },
	{ "fxsr-opt", 0x80000001, 0, CPUID_EDX, 25 },
	{ "pdpe1gb", 0x80000001, 0, CPUID_EDX, 26 },
	{ "rdtscp", 0x80000001, 0, CPUID_EDX, 27 },
	{ "lm", 0x80000001, 0, CPUID_EDX, 29 },
	{ "i64", 0x80000001, 0, CPUID_EDX, 29 },
	{ "3dnowext", 0x80000001, 0, CPUID_EDX, 30 },
	{ "3dnow", 0x80000001, 0, CPUID_EDX, 31 },
	{ "overflow-recov", 0x80000007, 0, CPUID_EBX, 0 },
	{ "succor", 0x80000007, 0, CPUID_EBX, 1 },
	{ "invtsc", 0x80000007, 0, CPUID_EDX, 8 },
	{ "nonstop_tsc", 0x80000007, 0, CPUID_EDX, 8 },
	{ "clzero", 0x80000008, 0, CPUID_EBX, 0 },
	{ "irperf", 0x80000008, 0, CPUID_EBX, 1 },
	{ "xsaveerptr", 0x80000008, 0, CPUID_EBX, 2 },
	{ "rdpru", 0x80000008, 0, CPUID_EBX, 4 },
	{ "wbnoinvd", 0x80000008, 0, CPUID_EBX, 9 },
	{ "ibpb", 0x80000008, 0, CPUID_EBX, 12 },
	{ "ibrs", 0x80000008, 0, CPUID_EBX, 14 },
	{ "amd-stibp", 0x80000008, 0, CPUID_EBX, 15 },
	{ "ibrs-always", 0x80000008, 0, CPUID_EBX, 16 },
	{ "stibp-always-on", 0x80000008, 0, CPUID_EBX, 17 },
	{ "amd-ssbd", 0x80000008, 0, CPUID_EBX, 24 },
	{ "virt-ssbd", 0x80000008, 0, CPUID_EBX, 25 },
	{ "amd-no-ssb", 0x80000008, 0, CPUID_EBX, 26 },
	{ "amd-psfd", 0x80000008, 0, CPUID_EBX, 28 },
	{ "npt", 0x8000000a, 0, CPUID_EDX, 0 },
	{ "lbrv", 0x8000000a, 0, CPUID_EDX, 1 },
	{ "svm-lock", 0x8000000a, 0, CPUID_EDX, 2 },
	{ "nrip-save", 0x8000000a, 0, CPUID_EDX, 3 },
	{ "tsc-scale", 0x8000000a, 0, CPUID_EDX, 4 },
	{ "vmcb-clean", 0x8000000a, 0, CPUID_EDX, 5 },
	{ "flushbyasid", 0x8000000a, 0, CPUID_EDX, 6 },
	{ "decodeassists", 0x8000000a, 0, CPUID_EDX, 7 },
	{ "pause-filter", 0x8000000a, 0, CPUID_EDX, 10 },
	{ "pfthreshold", 0x8000000a, 0, CPUID_EDX, 12 },
	{ "avic", 0x8000000a, 0, CPUID_EDX, 13 },
	{ "v-vmsave-vmload", 0x8000000a, 0, CPUID_EDX, 15 },
	{ "vgif", 0x8000000a, 0, CPUID_EDX, 16 },
	{ "v-spec-ctrl", 0x8000000a, 0, CPUID_EDX, 20 },
	{ "vnmi", 0x8000000a, 0, CPUID_EDX, 25 },
	{ "svme-addr-chk", 0x8000000a, 0, CPUID_EDX, 28 },
	{ "no-nested-data-bp", 0x80000021, 0, CPUID_EAX, 0 },
	{ "fs-gs-base-ns", 0x80000021, 0, CPUID_EAX, 1 },
	{ "lfence-always-serializing", 0x80000021, 0, CPUID_EAX, 2 },
	{ "null-sel-clr-base", 0x80000021, 0, CPUID_EAX, 6 },
	{ "smm-pgcfg-lock", 0x80000021, 0, CPUID_EAX, 7 },
	{ "auto-ibrs", 0x80000021, 0, CPUID_EAX, 8 },
	{ "prefetchi", 0x80000021, 0, CPUID_EAX, 17 },
	{ "sbpb", 0x80000021, 0, CPUID_EAX, 27 },
	{ "ibpb-brtype", 0x80000021, 0, CPUID_EAX, 28 },
	{ "srso-no", 0x80000021, 0, CPUID_EAX, 29 },
};

const unsigned cpu_nfeatures = COUNT_OF(cpu_features);

const struct cpu_model cpu_models[] = {
	{ "x86-64-v1", "x86-64 baseline", NULL, NULL, 0, 0, 1, 0xd,
	  "apic clflush cmov cx8 de fpu fxsr lm mca mce mmx msr mtrr nx pae pat pge pse pse36 sep "
	  "sse sse2 syscall tsc" },
	{ "x86-64-v2", "x86-64-v2 (SSE4.2, POPCNT, CMPXCHG16B)", "x86-64-v1", NULL, 0, 0, 1, 0xd,
	  "cx16 lahf_lm pni popcnt sse4.1 sse4.2 ssse3" },
	{ "x86-64-v3", "x86-64-v3 (AVX2, BMI, FMA)", "x86-64-v2", NULL, 0, 0, 1, 0xd,
	  "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave "
	  "aes fsgsbase pclmuldq rdrand rdtscp smep xsaveopt" },
	{ "x86-64-v4", "x86-64-v4 (AVX-512)", "x86-64-v3", NULL, 0, 0, 1, 0xd,
	  "avx512bw avx512cd avx512dq avx512f avx512vl "
	  "adx clflushopt clwb invpcid pcid pdpe1gb rdseed smap xgetbv1 xsavec" },
	{ "Nehalem", "Intel Core i7 9xx (Nehalem Class Core i7)", "x86-64-v2", "GenuineIntel",
	  6, 26, 3, 0xb, "" },
	{ "Haswell", "Intel Core Processor (Haswell, no TSX)", "Nehalem", "GenuineIntel",
	  6, 60, 1, 0xd,
	  "aes avx avx2 bmi1 bmi2 erms fma fsgsbase invpcid movbe pcid pclmuldq rdtscp smep "
	  "tsc-deadline x2apic xsave" },
	{ "Skylake-Server", "Intel Xeon Processor (Skylake)", "Haswell", "GenuineIntel",
	  6, 85, 4, 0xd,
	  "3dnowprefetch abm adx arat avx512bw avx512cd avx512dq avx512f avx512vl clwb f16c hle mpx "
	  "pdpe1gb rdrand rdseed rtm smap vme xgetbv1 xsavec xsaveopt" },
	{ "EPYC", "AMD EPYC Processor", "x86-64-v2", "AuthenticAMD", 23, 1, 2, 0xd,
	  "3dnowprefetch abm adx aes arat avx avx2 bmi1 bmi2 clflushopt cr8legacy f16c fma fsgsbase "
	  "fxsr_opt misalignsse mmxext monitor movbe osvw pclmuldq pdpe1gb rdrand rdseed rdtscp "
	  "sha-ni smap smep sse4a svm vme xgetbv1 xsave xsavec xsaveopt" },
	{ "EPYC-Rome", "AMD EPYC-Rome Processor", "EPYC", "AuthenticAMD", 23, 49, 0, 0xd,
	  "amd-stibp clwb clzero ibpb npt nrip-save perfctr_core rdpid umip wbnoinvd xsaveerptr" },
};
/* clang-format on */

const unsigned cpu_nmodels = COUNT_OF(cpu_models);

const struct cpu_feature *cpu_feature_find(const char *name, size_t len)
{
	for (unsigned i = 0; i < cpu_nfeatures; i++)
		if (strlen(cpu_features[i].name) == len && !memcmp(cpu_features[i].name, name, len))
			return &cpu_features[i];
	return NULL;
}

static uint32_t *feature_reg(struct cpuid_entry *e, const struct cpu_feature *f)
{
	uint32_t *const reg[] = { &e->eax, &e->ebx, &e->ecx, &e->edx };

	return reg[f->reg];
}

bool cpu_feature_has(const struct cpuid_table *t, const struct cpu_feature *f)
{
	const struct cpuid_entry *found = cpuid_peek(t, f->leaf, f->sub);

	if (!found)
		return false;
	struct cpuid_entry e = *found;
	return *feature_reg(&e, f) & BIT(f->bit);
}

/* Leaves in which ECX selects a sub-leaf, of those that hold features. */
static bool feature_has_sub(uint32_t leaf)
{
	return leaf == 7 || leaf == 0xd || leaf == 0x14;
}

bool cpu_feature_set(struct cpuid_table *t, const struct cpu_feature *f, bool on)
{
	struct cpuid_entry *e = cpuid_find(t, f->leaf, f->sub);

	if (!e && on) {
		const struct cpuid_entry add = { .leaf = f->leaf,
						 .sub = f->sub,
						 .has_sub = feature_has_sub(f->leaf) };

		if (!cpuid_set(t, &add))
			return false;
		e = cpuid_find(t, f->leaf, f->sub);
	}
	if (!e)
		return true;
	uint32_t *reg = feature_reg(e, f);
	*reg = on ? *reg | BIT(f->bit) : *reg & ~BIT(f->bit);
	return true;
}

const struct cpu_model *cpu_model_find(const char *name)
{
	for (unsigned i = 0; i < cpu_nmodels; i++)
		if (!strcmp(cpu_models[i].name, name))
			return &cpu_models[i];
	return NULL;
}

static void features_add(struct cpuid_table *t, const char *names)
{
	while (*names) {
		size_t len = strcspn(names, " ");
		const struct cpu_feature *f = cpu_feature_find(names, len);

		if (f)
			cpu_feature_set(t, f, true);
		names += len + (names[len] == ' ');
	}
}

void cpu_model_features(const struct cpu_model *m, struct cpuid_table *ret)
{
	ret->n = 0;
	/* Bases come before what is based on them, so this ends. */
	for (; m; m = m->base ? cpu_model_find(m->base) : NULL)
		features_add(ret, m->features);
}

unsigned cpu_model_missing(const struct cpu_model *m, const struct cpuid_table *engine,
			   const struct cpu_feature **ret, unsigned max)
{
	struct cpuid_table want;
	const struct cpu_feature *last = NULL;
	unsigned n = 0;

	cpu_model_features(m, &want);
	for (unsigned i = 0; i < cpu_nfeatures; i++) {
		const struct cpu_feature *f = &cpu_features[i];
		bool alias = last && last->leaf == f->leaf && last->sub == f->sub &&
			     last->reg == f->reg && last->bit == f->bit;

		last = f;
		if (alias || !cpu_feature_has(&want, f) || cpu_feature_has(engine, f))
			continue;
		if (n < max)
			ret[n] = f;
		n++;
	}
	return n;
}
