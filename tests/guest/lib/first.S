/*
 * For measuring: the first instruction of this guest is the one that ends it.  A PVH kernel, so
 * Sampan and QEMU's microvm both load it; OUT to port 0xf4 is isa-debug-exit there and the exit of
 * tests/guest's board here.  It ends with 0 in AL: status 1 of QEMU, ((0 << 1) | 1).
 */
#include "pvh.inc"

	.section .start, "ax"
	.code32
	.globl	_start
_start:
	outb	%al, $0xf4
	xorl	%eax, %eax
	outl	%eax, $0xf4
1:	cli
	hlt
	jmp	1b
