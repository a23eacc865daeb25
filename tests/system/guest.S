/*
 * A 64-bit ELF guest for tests of whole programs.  It says "ready" on COM1, then obeys letters that
 * arrive there and echoes every other byte:
 *
 *	p	power off (ACPI S5)		r	reset (port 0xcf9)
 *	t	triple fault			e	isa-debug-exit with 3
 *	m	says "line: " and the command line
 *	d	counts down from a million, then says "done"
 *	b	waits for the ACPI power button, then says "button" and powers off
 *
 * Built with: gcc -nostdlib -static -Wl,-Ttext=0x200000 -Wl,--build-id=none
 */
	.set	COM1, 0x3f8
	.set	LSR, COM1 + 5
	.set	PM1_STS, 0x600
	.set	PM1_EN, 0x602
	.set	PM1_CNT, 0x604
	/* SLP_TYP 5 of \_S5, SLP_EN. */
	.set	SLEEP_S5, 5 << 10 | 1 << 13
	.set	PWRBTN, 1 << 8

	.text
	.globl	_start
_start:
	movl	$0x80000, %esp
	/* The zero page's cmd_line_ptr. */
	movl	0x228(%rsi), %r12d
	leaq	ready(%rip), %rsi
	call	puts
loop:
	call	getc
	cmpb	$'p', %al
	je	off
	cmpb	$'r', %al
	je	reset
	cmpb	$'t', %al
	je	triple
	cmpb	$'e', %al
	je	leave
	cmpb	$'m', %al
	je	line
	cmpb	$'d', %al
	je	down
	cmpb	$'b', %al
	je	button
	call	putc
	jmp	loop

off:
	movw	$PM1_CNT, %dx
	movw	$SLEEP_S5, %ax
	outw	%ax, %dx
	jmp	.
reset:
	movw	$0xcf9, %dx
	movb	$6, %al
	outb	%al, %dx
	jmp	.
triple:
	lidt	no_idt(%rip)
	ud2
leave:
	movw	$0xf4, %dx
	movl	$3, %eax
	outl	%eax, %dx
	jmp	.
line:
	leaq	line_is(%rip), %rsi
	call	puts
	movq	%r12, %rsi
	call	puts
	leaq	newline(%rip), %rsi
	call	puts
	jmp	loop
down:
	movl	$1000000, %ecx
1:	decl	%ecx
	jnz	1b
	leaq	done(%rip), %rsi
	call	puts
	jmp	loop
button:
	/* PM1 is enabled by SCI_EN here already or by nobody: we poll. */
	movw	$PM1_EN, %dx
	movw	$PWRBTN, %ax
	outw	%ax, %dx
	leaq	waits(%rip), %rsi
	call	puts
1:	movw	$PM1_STS, %dx
	inw	%dx, %ax
	testw	$PWRBTN, %ax
	jz	1b
	leaq	button_is(%rip), %rsi
	call	puts
	jmp	off

/* %al = a byte from COM1. */
getc:
	movw	$LSR, %dx
1:	inb	%dx, %al
	testb	$1, %al
	jz	1b
	movw	$COM1, %dx
	inb	%dx, %al
	ret
/* %al goes out. */
putc:
	movb	%al, %bl
	movw	$LSR, %dx
1:	inb	%dx, %al
	testb	$0x20, %al
	jz	1b
	movw	$COM1, %dx
	movb	%bl, %al
	outb	%al, %dx
	ret
/* The string at %rsi. */
puts:
	lodsb
	testb	%al, %al
	jz	1f
	call	putc
	jmp	puts
1:	ret

ready:	.asciz	"\nready\n"
line_is: .asciz	"line: "
newline: .asciz	"\n"
done:	.asciz	"done\n"
waits:	.asciz	"waiting\n"
button_is: .asciz "button\n"
no_idt:	.word	0
	.quad	0
	.section .note.GNU-stack, "", @progbits
