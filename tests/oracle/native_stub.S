/*
 * The way into a case and out of it; see native.c.  Everything is at fixed addresses below 2 GiB, so
 * that no register is needed to load and store all of them.
 */
#define AREA 0x13570000
#define NAT (AREA + 0x4000)

/* struct native */
#define IN(n) NAT + 8 * n
#define OUT(n) NAT + 0x80 + 8 * n
#define RFLAGS NAT + 0x100
#define OUT_RFLAGS NAT + 0x108
#define ENTRY NAT + 0x110
#define HOST_RSP NAT + 0x120
#define FAR32 NAT + 0x128
#define YMM NAT + 0x140
#define OUT_YMM NAT + 0x340
#define FX NAT + 0x540
#define OUT_FX NAT + 0x740
/* A small stack for 32-bit code. */
#define STACK32 NAT + 0xff0

	.macro	save_host
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, HOST_RSP
	.endm

	.macro	vectors_in
	fxrstor64 FX
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	YMM + 32 * \n, %ymm\n
	.endr
	.endm

	.text
	.globl	orc_enter, orc_enter32, orc_exit, orc_exit_fault
	.globl	orc_in32, orc_out32, orc_in16, orc_end32, orc_out64

orc_enter:
	save_host
	vectors_in
	push	RFLAGS
	popfq
	mov	IN(0), %rax
	mov	IN(1), %rcx
	mov	IN(2), %rdx
	mov	IN(3), %rbx
	mov	IN(4), %rsp
	mov	IN(5), %rbp
	mov	IN(6), %rsi
	mov	IN(7), %rdi
	.irp	n, 8, 9, 10, 11, 12, 13, 14, 15
	mov	IN(\n), %r\n
	.endr
	jmp	*ENTRY

/* The vectors here, the rest in compatibility mode. */
orc_enter32:
	save_host
	vectors_in
	ljmpl	*FAR32

orc_exit:
	mov	%rsp, OUT(4)
	mov	HOST_RSP, %rsp
	mov	%rax, OUT(0)
	mov	%rcx, OUT(1)
	mov	%rdx, OUT(2)
	mov	%rbx, OUT(3)
	mov	%rbp, OUT(5)
	mov	%rsi, OUT(6)
	mov	%rdi, OUT(7)
	.irp	n, 8, 9, 10, 11, 12, 13, 14, 15
	mov	%r\n, OUT(\n)
	.endr
	pushfq
	pop	OUT_RFLAGS
vectors_out:
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	%ymm\n, OUT_YMM + 32 * \n
	.endr
	fxsave64 OUT_FX
orc_exit_fault:
	cld
	mov	$0x2b, %eax
	mov	%eax, %ss
	/* As 64-bit cases want them. */
	xor	%eax, %eax
	mov	%eax, %ds
	mov	%eax, %es
	fninit
	movl	$0x1f80, -8(%rsp)
	ldmxcsr	-8(%rsp)
	vzeroupper
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

/* Back from compatibility mode. */
orc_out64:
	mov	$0x2b, %eax
	mov	%eax, %ss
	mov	HOST_RSP, %rsp
	jmp	vectors_out

/* These three are copied to where 32-bit code can reach them. */
	.code32
orc_in32:
	mov	$0x2b, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	$(STACK32), %esp
	push	RFLAGS
	popf
	mov	IN(0), %eax
	mov	IN(1), %ecx
	mov	IN(2), %edx
	mov	IN(3), %ebx
	mov	IN(4), %esp
	mov	IN(5), %ebp
	mov	IN(6), %esi
	mov	IN(7), %edi
	jmp	*ENTRY

/* From here on with the segments of the LDT, see native.c; ENTRY is a far pointer. */
orc_in16:
	mov	$0x2b, %eax
	mov	%eax, %ds
	mov	$(STACK32), %esp
	push	RFLAGS
	popf
	mov	IN(1), %ecx
	mov	IN(2), %edx
	mov	IN(3), %ebx
	mov	IN(5), %ebp
	mov	IN(6), %esi
	mov	IN(7), %edi
	mov	$0xf, %eax
	mov	%eax, %es
	mov	%eax, %ds
	mov	%eax, %ss
	mov	%cs:IN(4), %esp
	mov	%cs:IN(0), %eax
	ljmp	*%cs:ENTRY

orc_out32:
	mov	%esp, OUT(4)
	mov	$(STACK32), %esp
	mov	%eax, OUT(0)
	mov	%ecx, OUT(1)
	mov	%edx, OUT(2)
	mov	%ebx, OUT(3)
	mov	%ebp, OUT(5)
	mov	%esi, OUT(6)
	mov	%edi, OUT(7)
	pushf
	pop	OUT_RFLAGS
	/* To the jump that native.c puts there. */
	ljmp	$0x33, $(AREA + 0x5f00)
orc_end32:
	.code64
	.section .note.GNU-stack, "", @progbits
