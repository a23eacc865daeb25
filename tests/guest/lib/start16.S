/* Real mode: entered at 0:_start, all segments base 0. */
	.section .start, "ax"
	.code16
	.globl	_start
_start:
	cli
	cld
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$0x7000, %esp
	calll	guest_main
1:	hlt
	jmp	1b
