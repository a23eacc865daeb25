/*
 * The smallest guest: prints "hi" in the mode it was entered in and leaves.  (As PVH kernel: flat
 * 32-bit; `guest-run --real` enters it in real mode, where the bytes mean the same.)
 */
	.code32
	.globl	_start
_start:
	movb	$'h', %al
	outb	%al, $0xe9
	movb	$'i', %al
	outb	%al, $0xe9
	movb	$'\n', %al
	outb	%al, $0xe9
	movb	$0, %al
	outb	%al, $0xf4
1:	hlt
	jmp	1b
