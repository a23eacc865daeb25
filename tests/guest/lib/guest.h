/*
 * What every tiny guest may use, in each mode (-m16, -m32, -m64).  A guest is a main() that makes
 * checks; each prints one line, "ok name" or "FAIL name: got .. want ..", and the number of those
 * that failed is the guest's result.  Output must be the same on every engine: print no addresses,
 * times or counts that may differ.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ports.h"

typedef unsigned long ulong;

int main(void);
void __attribute__((noreturn)) leave(unsigned result);

static inline void outb(uint16_t port, uint8_t v)
{
	asm volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t v)
{
	asm volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t v)
{
	asm volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t v;

	asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t v;

	asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

/* %s %d %u %x; nothing else. */
void print(const char *fmt, ...);

/* One check. */
void check_(const char *name, uint64_t got, uint64_t want);
#define check(name, got, want) check_((name), (uint64_t)(got), (uint64_t)(want))
/* A line that says why something was not tried; it is part of the output, so it must be the same on
 * every engine. */
void note(const char *text);

/* Ends the guest: this cannot be tried here, because of `why`. */
void __attribute__((noreturn)) skip(const char *why);

/* The board's command port. */
uint32_t board(uint32_t cmd, uint32_t arg0, uint32_t arg1);

void *memset(void *p, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* This is a KVM that emulates ring 0 (a PVM host): a test says at each use what is odd there. */
static inline bool emulated(void)
{
	return board(CMD_EMULATED, 0, 0) == 1;
}

static inline void barrier(void)
{
	asm volatile("" : : : "memory");
}
