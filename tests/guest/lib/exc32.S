/* As exc64.S, for protected mode. */
#include "sel.h"

	.text
	.code32
	.globl	exc_stubs
	.align	16
exc_stubs:
	.set	v, 0
	.rept	256
	.align	16
	.if	v != 8 && (v < 10 || v > 14) && v != 17 && v != 21
	pushl	$0
	.endif
	pushl	$v
	jmp	common
	.set	v, v + 1
	.endr

common:
	pushal
	/* From VM86 and ring 3 the data segments are not ours. */
	pushl	%ds
	pushl	%es
	movl	$SEL_KDATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	cld
	leal	8(%esp), %eax
	movl	%esp, %ebx
	pushl	%eax
	call	exc_trap
	movl	%ebx, %esp
	popl	%es
	popl	%ds
	popal
	addl	$8, %esp
	iretl

/* int exc_enter(fn, arg, user_stack) */
	.globl	exc_enter
exc_enter:
	movl	4(%esp), %eax
	movl	8(%esp), %ecx
	movl	12(%esp), %edx
	pushl	%ebx
	pushl	%ebp
	pushl	%esi
	pushl	%edi
	pushfl
	movl	%esp, exc_sp
	testl	%edx, %edx
	jnz	1f
	pushl	%ecx
	call	*%eax
	movl	$-1, %eax
	pushl	%eax
	pushl	%eax
	.globl	exc_return
exc_return:
	movl	4(%esp), %eax
	movl	exc_sp, %esp
	popfl
	popl	%edi
	popl	%esi
	popl	%ebp
	popl	%ebx
	ret
1:	movl	%ecx, -4(%edx)
	movl	$user_done, -8(%edx)
	subl	$8, %edx
	pushl	$SEL_UDATA
	pushl	%edx
	pushl	user_flags
	pushl	$SEL_UCODE32
	pushl	%eax
	movl	$SEL_UDATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	iretl
	.globl	user_done
user_done:
	ud2

	.data
	.globl	exc_sp, user_flags
exc_sp:	.long	0
user_flags:
	.long	2
