#include "guest.h"

#include <stdarg.h>

static unsigned failed;

void leave(unsigned result)
{
	outl(PORT_EXIT, result);
	for (;;)
		asm volatile("cli; hlt");
}

static void put(const char *s)
{
	while (*s)
		outb(PORT_CONSOLE, (uint8_t)*s++);
}

static void put_hex(uint64_t v)
{
	int shift = 60;

	while (shift && !(v >> shift & 15))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		outb(PORT_CONSOLE, (uint8_t) "0123456789abcdef"[v >> shift & 15]);
}

/* 32 bits: a 64-bit division needs a library in the other modes. */
static void put_dec(uint32_t v)
{
	char buf[12];
	int n = 0;

	do
		buf[n++] = (char)('0' + v % 10);
	while (v /= 10);
	while (n)
		outb(PORT_CONSOLE, (uint8_t)buf[--n]);
}

void print(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	for (; *fmt; fmt++) {
		if (*fmt != '%') {
			outb(PORT_CONSOLE, (uint8_t)*fmt);
			continue;
		}
		switch (*++fmt) {
		case 's':
			put(va_arg(ap, const char *));
			break;
		case 'u':
			put_dec(va_arg(ap, uint32_t));
			break;
		case 'x':
			put_hex(va_arg(ap, uint64_t));
			break;
		default:
			put("?");
		}
	}
	va_end(ap);
}

void check_(const char *name, uint64_t got, uint64_t want)
{
	if (got == want) {
		print("ok %s\n", name);
		return;
	}
	failed++;
	print("FAIL %s: got %x want %x\n", name, got, want);
}

void note(const char *text)
{
	print("# %s\n", text);
}

void skip(const char *why)
{
	print("# skip: %s\n", why);
	leave(failed ? failed : SKIPPED);
}

uint32_t board(uint32_t cmd, uint32_t arg0, uint32_t arg1)
{
	outl(PORT_ARG0, arg0);
	outl(PORT_ARG1, arg1);
	outl(PORT_CMD, cmd);
	uint32_t answer;
	do
		answer = inl(PORT_CMD);
	while (answer == PENDING);
	return answer;
}

void *memset(void *p, int c, size_t n)
{
	for (char *d = p; n; n--)
		*d++ = (char)c;
	return p;
}

void *memcpy(void *d, const void *s, size_t n)
{
	char *to = d;

	for (const char *from = s; n; n--)
		*to++ = *from++;
	return d;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x < *y ? -1 : 1;
	return 0;
}

/* Called by the start code of each mode. */
void guest_main(void);
void guest_main(void)
{
	leave(main() + failed);
}
