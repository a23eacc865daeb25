/* Protected mode, 32 bits, no paging: entered as a PVH kernel. */
#include "sel.h"
#include "pvh.inc"

	.section .start, "ax"
	.code32
	.globl	_start
_start:
	cli
	cld
	movl	$stack_top, %esp
	lgdt	gdt_desc
	ljmp	$SEL_KCODE, $1f
1:	movl	$SEL_KDATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	xorl	%eax, %eax
	movl	%eax, %fs
	movl	%eax, %gs
	movl	%cr4, %eax
	orl	$0x600, %eax
	movl	%eax, %cr4
	movl	%cr0, %eax
	andl	$~0x6000000c, %eax
	orl	$0x00010022, %eax
	movl	%eax, %cr0
	call	exc_init
	call	guest_main

	.data
	.align	16
	.globl	gdt
gdt:	.quad	0
	.quad	0x00cf9b000000ffff	/* SEL_KCODE */
	.quad	0x00cf93000000ffff	/* SEL_KDATA */
	.quad	0x00cf9b000000ffff	/* SEL_KCODE32 */
	.quad	0x00cffb000000ffff	/* SEL_UCODE32 */
	.quad	0x00cff3000000ffff	/* SEL_UDATA */
	.quad	0x00cffb000000ffff	/* SEL_UCODE */
	.quad	0			/* SEL_TSS */
	.quad	0
	.fill	8, 8, 0			/* SEL_FREE */
gdt_end:
gdt_desc:
	.word	gdt_end - gdt - 1
	.long	gdt

	.bss
	.align	4096
	.globl	idt
idt:	.fill	4096
	.fill	32768
stack_top:
