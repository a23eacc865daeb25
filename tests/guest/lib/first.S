/*
 * For measuring: the first thing that this guest does ends it.  A PVH kernel, so Sampan and QEMU's
 * microvm both load it; port 0xf4 is isa-debug-exit.  It writes 21, which makes exit status 43,
 * ((21 << 1) | 1): a failure to start is 1.
 */
#include "pvh.inc"

	.section .start, "ax"
	.code32
	.globl	_start
_start:
	movl	$21, %eax
	outl	%eax, $0xf4
1:	cli
	hlt
	jmp	1b
