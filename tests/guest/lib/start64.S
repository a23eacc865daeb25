/*
 * Long mode: entered as a PVH kernel (flat 32-bit, no paging).  Maps the first 4 GiB one to one with
 * 2 MiB pages that ring 3 may use too, and calls guest_main() on a stack of its own.
 *
 * Application processors come through ap_start, copied to AP_PAGE, in real mode, take the same page
 * tables and call ap_main(its number).
 */
#include "sel.h"
#include "pvh.inc"

#define AP_PAGE 0x8000
#define EFER 0xc0000080

	.section .start, "ax"
	.code32
	.globl	_start
_start:
	cli
	cld
	movl	$stack_top, %esp
	/* PML4, PDPT, four page directories. */
	movl	$pdpt + 7, pml4
	movl	$pd + 7, %eax
	movl	$pdpt, %edi
	movl	$4, %ecx
1:	movl	%eax, (%edi)
	addl	$0x1000, %eax
	addl	$8, %edi
	decl	%ecx
	jnz	1b
	movl	$0x87, %eax
	movl	$pd, %edi
	movl	$2048, %ecx
2:	movl	%eax, (%edi)
	addl	$0x200000, %eax
	addl	$8, %edi
	decl	%ecx
	jnz	2b
	lgdt	gdt_desc
	call	long_mode
	ljmp	$SEL_KCODE, $start_long

/* PAE, LME, PG; CR4.OSFXSR so that vectors can be tried. */
long_mode:
	movl	%cr4, %eax
	orl	$0x620, %eax
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$EFER, %ecx
	rdmsr
	orl	$0x900, %eax
	wrmsr
	movl	%cr0, %eax
	andl	$~0x6000000c, %eax
	orl	$0x80010022, %eax
	movl	%eax, %cr0
	ret

	.code64
start_long:
	call	load_segs
	call	exc_init
	call	guest_main

load_segs:
	movl	$SEL_KDATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	xorl	%eax, %eax
	movl	%eax, %fs
	movl	%eax, %gs
	ret

	.code16
	.globl	ap_start, ap_start_end
ap_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	lgdtl	AP_PAGE + (ap_gdt_desc - ap_start)
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$SEL_KCODE32, $ap_protected
ap_gdt_desc:
	.word	gdt_end - gdt - 1
	.long	gdt
ap_start_end:

	.code32
ap_protected:
	movl	$SEL_KDATA, %eax
	movl	%eax, %ds
	movl	%eax, %ss
	/* Its number, and a stack by it. */
	movl	$1, %ebx
	lock xaddl %ebx, ap_next
	movl	%ebx, %eax
	shll	$12, %eax
	addl	$ap_stacks, %eax
	movl	%eax, %esp
	call	long_mode
	ljmp	$SEL_KCODE, $ap_long

	.code64
ap_long:
	call	load_segs
	lidt	idt_desc
	movl	%ebx, %edi
	call	ap_main
1:	cli
	hlt
	jmp	1b

	.globl	gdt
	.data
	.align	16
gdt:	.quad	0
	.quad	0x00af9b000000ffff	/* SEL_KCODE: 64-bit */
	.quad	0x00cf93000000ffff	/* SEL_KDATA */
	.quad	0x00cf9b000000ffff	/* SEL_KCODE32 */
	.quad	0x00cffb000000ffff	/* SEL_UCODE32 */
	.quad	0x00cff3000000ffff	/* SEL_UDATA */
	.quad	0x00affb000000ffff	/* SEL_UCODE */
	.quad	0			/* SEL_TSS, set by exc_init() through tss_desc */
	.quad	0
	.fill	8, 8, 0			/* SEL_FREE */
gdt_end:
gdt_desc:
	.word	gdt_end - gdt - 1
	.quad	gdt
	.globl	idt_desc
idt_desc:
	.word	256 * 16 - 1
	.quad	idt
ap_next:
	.long	1

	.bss
	.align	4096
	.globl	pml4, idt
pml4:	.fill	4096
pdpt:	.fill	4096
pd:	.fill	4 * 4096
idt:	.fill	4096
	.fill	32768
stack_top:
	.fill	8 * 4096
ap_stacks = stack_top
