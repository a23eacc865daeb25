/* Stubs of all 256 vectors, and the ways into a function that may fault; see exc.h. */
#include "sel.h"

	.text
	.code64
	.globl	exc_stubs
	.align	16
exc_stubs:
	.set	v, 0
	.rept	256
	.align	16
	/* Those without an error code get a zero (SDM 3A table 6-1). */
	.if	v != 8 && (v < 10 || v > 14) && v != 17 && v != 21
	pushq	$0
	.endif
	pushq	$v
	jmp	common
	.set	v, v + 1
	.endr

common:
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	pushq	%rbx
	pushq	%rbp
	pushq	%rsi
	pushq	%rdi
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	cld
	movq	%rsp, %rdi
	movq	%rsp, %rbx
	andq	$~15, %rsp
	call	exc_trap
	movq	%rbx, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rdi
	popq	%rsi
	popq	%rbp
	popq	%rbx
	popq	%rdx
	popq	%rcx
	popq	%rax
	addq	$16, %rsp
	iretq

/* int exc_enter(fn, arg, user_stack): 0 stack: call fn in ring 0, else go to ring 3 with it. */
	.globl	exc_enter
exc_enter:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	pushfq
	movq	%rsp, exc_sp
	movq	%rdi, %rax
	movq	%rsi, %rdi
	testq	%rdx, %rdx
	jnz	1f
	call	*%rax
	movl	$-1, %edi
/* exc_return(value): exc_enter() returns value, from wherever we are in ring 0. */
	.globl	exc_return
exc_return:
	movl	%edi, %eax
	movq	exc_sp, %rsp
	/* Null after an exception in ring 3. */
	movl	$SEL_KDATA, %ecx
	movl	%ecx, %ss
	popfq
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret
1:	subq	$8, %rdx
	leaq	user_done(%rip), %rcx
	movq	%rcx, (%rdx)
	pushq	$SEL_UDATA
	pushq	%rdx
	pushq	user_flags
	pushq	$SEL_UCODE
	pushq	%rax
	iretq
/* Where a ring-3 function returns to; exc_trap() knows the address. */
	.globl	user_done
user_done:
	ud2

	.data
	.globl	exc_sp, user_flags
exc_sp:	.quad	0
/* RFLAGS of ring 3: reserved bit; a test may add IOPL, IF, TF. */
user_flags:
	.quad	2
