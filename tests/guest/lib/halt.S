/* For measuring: a guest that does nothing, for ever. */
#include "pvh.inc"

	.section .start, "ax"
	.code32
	.globl	_start
_start:
	cli
	hlt
	jmp	_start
