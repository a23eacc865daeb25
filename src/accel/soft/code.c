/*
 * Decoded code: blocks, how they are found, and how a store to code is noticed.
 *
 * A block is a run of decoded instructions inside one page, found by physical address and code
 * size, so address spaces that share code share blocks.  Each vCPU has its own (an arena that is
 * dropped as a whole when it is full).  The instructions themselves are kept in a ring: what was
 * not translated and runs again later than that is decoded again.
 *
 * Three look-ups, fastest first: the successor that the last
 * block remembers (same page only, so the same translation holds); the jump cache by linear
 * address, which also asks that the code page's translation is still the same; the page's buckets.
 *
 * Self-modifying code (SDM 3A 11.6, 8.1.3).  spage.lines says which 64-byte lines of a page some
 * vCPU decoded.  While it is not 0 no vCPU has a write translation of the page, so every store to
 * it comes to code_stored(), which drops this vCPU's blocks that it hits at once (the running one
 * ends after the storing instruction) and posts the line to the others, who look at it before
 * their next block: before any serializing instruction of theirs is over.  The order is what makes
 * it right: a decoder marks the line, takes away write translations (sync_unwrite), then reads the
 * bytes; a store writes, then looks at the marks.  One of the two sees the other.
 *
 * A page that is stored to often is given back: its blocks are dropped, its marks removed, and
 * stores become fast; the next time it takes more stores until that.  So a freed code page costs
 * little, and a page with both code and data settles at slow stores.
 *
 * An instruction that crosses a page, lies in MMIO, or ends behind the limit of CS is decoded alone
 * each time (code_step); so is everything while TF or an instruction breakpoint is on.
 */
#include "accel/soft/code_int.h"
#include "accel/soft/evex.h"
#include "accel/soft/insn.h"
#include "accel/soft/jit/jit.h"
#include "accel/soft/jit/prof.h"
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
	CODE_JC = 4096,
	CODE_BUCKETS = 16,
	CODE_BUCKET_BYTES = 4096 / CODE_BUCKETS,
	CODE_ALIGN = 32,
	CODE_MAX_LEN = 15,
	/* Slow stores until a page is given back the first time; doubles each time. */
	CODE_GIVE_BACK = 64,
	CODE_GIVE_BACK_MAX_SHIFT = 12,
};
#define CODE_ARENA MIB(64)
#define CODE_INSNS MIB(64)
#define CODE_INSNS_JIT MIB(2)

/* Blocks of one page by where they begin.  Numbers are places in the arena: code_place(). */
struct cpage {
	uint32_t index, next_used;
	uint32_t bucket[CODE_BUCKETS];
};

/* Before the instructions of a block: blocks that followed it. */
struct csucc {
	struct {
		uint64_t rip;
		struct sblock *b;
	} s[2];
	uint64_t pad[4];
};
static_assert(sizeof(struct csucc) == sizeof(struct insn), "it takes the place of one");

struct cjump {
	/* Linear address, xor the code size in bits that no address has set alone. */
	uint64_t key;
	uint64_t pa;
	struct sblock *b;
	uint64_t pad;
};

struct soft_code {
	/* The block that runs or ran last. */
	struct sblock *last;
	/* Its successors when they may be used: CS is flat from 0, and neither mode nor
	 * translations changed in it. */
	struct csucc *chain;
	uint64_t chain_mask;
	struct cjump jc[CODE_JC];
	/* Blocks and pages. */
	uint8_t *arena;
	size_t used;
	/* By number of the page: its struct cpage. */
	uint32_t *page;
	uint64_t npages;
	uint32_t pages_used;
	/* The ring of instructions: how many it has, a power of two; where the next one is written,
	 * and the first that is good, counted since the beginning. */
	struct insn *insns;
	uint64_t ninsns, insns_head, insns_first;
	/* An instruction whose fn was replaced to end the block, and what it was. */
	struct insn *patched;
	insn_fn *patched_fn;
	/* soft_shared.hot */
	uint8_t hot;
	struct code_stats stats;
	struct insn one[2] __attribute__((aligned(64)));
};

/* In the place of an instruction before which the block shall end. */
static void code_stopped(struct scpu *c, const struct insn *i)
{
	uint64_t rip = soft_rip(c, i);

	c->rip = soft_64(c) ? rip : (uint32_t)rip;
}

static void code_toolong(struct scpu *c, const struct insn *i)
{
	soft_raise(c, i, X86_EXC_GP, 0);
}

/* What is not touched is not there. */
static void *code_map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void code_forget_jumps(struct soft_code *k)
{
	memset(k->jc, 0, sizeof(k->jc));
	/* Address 0 on page 0 would find an empty entry; 1 looks elsewhere. */
	k->jc[0].key = 1;
}

int code_new(struct scpu *c, struct err *e)
{
	struct soft_code *k = NEW(struct soft_code);

	if (!k)
		return err_set(e, ENOMEM, "no memory for decoded code");
	c->code = k;
	code_forget_jumps(k);
	k->hot = soft_sh(c)->hot;
	k->npages = soft_sh(c)->npages;
	k->page = xcalloc(k->npages ? k->npages : 1, sizeof(k->page[0]));
	k->arena = code_map(CODE_ARENA);
	k->used = CODE_ALIGN;
	/* Translated blocks need their instructions seldom. */
	k->ninsns = (soft_sh(c)->jit ? CODE_INSNS_JIT : CODE_INSNS) / sizeof(struct insn);
	k->insns = code_map(k->ninsns * sizeof(struct insn));
	if (!k->page || !k->arena || !k->insns)
		return err_set(e, ENOMEM, "no memory for decoded code");
	return 0;
}

void code_free(struct scpu *c)
{
	struct soft_code *k = c->code;

	if (!k)
		return;
	if (k->arena)
		munmap(k->arena, CODE_ARENA);
	if (k->insns)
		munmap(k->insns, k->ninsns * sizeof(struct insn));
	free(k->page);
	free(k);
	c->code = NULL;
}

/* What is at place n of the arena, and the other way; 0: nothing. */
static inline void *code_at(const struct soft_code *k, uint32_t n)
{
	return n ? k->arena + (size_t)n * CODE_ALIGN : NULL;
}

static inline uint32_t code_place(const struct soft_code *k, const void *p)
{
	return (uint32_t)((size_t)((const uint8_t *)p - k->arena) / CODE_ALIGN);
}

/* Forget instructions, not blocks; between blocks. */
static void code_drop_insns(struct scpu *c)
{
	struct soft_code *k = c->code;

	k->insns_first = k->insns_head;
	k->last = NULL;
	k->chain = NULL;
	k->patched = NULL;
	soft_host_reset(c->host);
	k->stats.insn_drops++;
}

void code_drop_all(struct scpu *c)
{
	struct soft_code *k = c->code;

	for (const struct cpage *p = code_at(k, k->pages_used); p; p = code_at(k, p->next_used))
		k->page[p->index] = 0;
	k->pages_used = 0;
	k->used = CODE_ALIGN;
	code_forget_jumps(k);
	jit_drop_all(c);
	code_drop_insns(c);
	k->stats.drops++;
}

/* The pages' numbering changed. */
int code_resize(struct scpu *c, struct err *e)
{
	struct soft_code *k = c->code;

	code_drop_all(c);
	free(k->page);
	k->npages = soft_sh(c)->npages;
	k->page = xcalloc(k->npages ? k->npages : 1, sizeof(k->page[0]));
	return k->page ? 0 : err_set(e, ENOMEM, "no memory for decoded code");
}

static bool code_flat(const struct scpu *c)
{
	return soft_64(c) || c->seg[X86_CS].limit == 0xffffffff;
}

void code_break_chain(struct scpu *c)
{
	if (likely(c->code))
		c->code->chain = NULL;
}

void code_mode_changed(struct scpu *c)
{
	struct soft_code *k = c->code;

	if (!k)
		return;
	k->chain = NULL;
	k->chain_mask = code_flat(c) && !c->sbase[X86_CS] ? ~0ull : 0;
}

const struct code_stats *code_stats(const struct scpu *c)
{
	return &c->code->stats;
}

static void *code_alloc(struct soft_code *k, size_t size)
{
	void *p = k->arena + k->used;

	k->used += align_up(size, CODE_ALIGN);
	return p;
}

/* ---- invalidation ---- */

void code_stop_after(struct scpu *c, const struct insn *i)
{
	struct soft_code *k = c->code;
	struct insn *next;

	if (!i || k->patched)
		return;
	next = (struct insn *)(uintptr_t)(i + 1);
	if (next->fn == soft_block_end)
		return;
	k->patched = next;
	k->patched_fn = next->fn;
	next->fn = code_stopped;
	/* To come to code_unpatch(). */
	sync_set_req(c);
}

static void code_unpatch(struct soft_code *k)
{
	if (!k->patched)
		return;
	k->patched->fn = k->patched_fn;
	k->patched = NULL;
}

/* Drop blocks of the page that share a byte with [from, to); true: the running one is hit. */
static bool code_kill(struct scpu *c, uint64_t index, unsigned from, unsigned to)
{
	struct soft_code *k = c->code;
	struct cpage *p = code_at(k, k->page[index]);
	bool running = false;

	if (!p)
		return false;
	/* A block is shorter than SOFT_BLOCK_MAX * 15 bytes. */
	unsigned reach = SOFT_BLOCK_MAX * CODE_MAX_LEN,
		 first = from > reach ? (from - reach) / CODE_BUCKET_BYTES : 0;
	for (unsigned n = first; n <= (to - 1) / CODE_BUCKET_BYTES; n++) {
		for (uint32_t *at = &p->bucket[n]; *at;) {
			struct sblock *b = code_at(k, *at);

			if (b->off >= to || (unsigned)b->off + b->len <= from) {
				at = &b->next;
				continue;
			}
			*at = b->next;
			running |= b == k->last;
			b->dead = true;
			if (b->jit)
				jit_kill(c, b->jit);
			k->stats.invalidations++;
		}
	}
	return running;
}

static void code_kill_lines(struct scpu *c, uint64_t index, uint64_t lines)
{
	if (!lines) {
		code_kill(c, index, 0, 4096);
		return;
	}
	while (lines) {
		unsigned n = (unsigned)__builtin_ctzll(lines);

		code_kill(c, index, n * 64, n * 64 + 64);
		lines &= lines - 1;
	}
}

static void code_post_locked(struct scpu *o, uint64_t index, uint64_t lines)
{
	struct soft_run *r = o->run;

	if (r->npost && r->post[r->npost - 1].page == index && r->post[r->npost - 1].lines && lines)
		r->post[r->npost - 1].lines |= lines;
	else if (r->npost < SOFT_POSTS)
		r->post[r->npost++] = (struct soft_post){ index, lines };
	else
		r->post_all = true;
	sync_set_req(o);
}

/* To all vCPUs but `me` (NULL: all). */
static void code_post_others_locked(struct soft_shared *sh, const struct scpu *me, uint64_t index,
				    uint64_t lines)
{
	for (unsigned n = 0; n < sh->ncpu; n++)
		if (sh->cpu[n] && sh->cpu[n] != me)
			code_post_locked(sh->cpu[n], index, lines);
}

void code_take_posts_locked(struct scpu *c)
{
	struct soft_run *r = c->run;

	if (r->post_all)
		code_drop_all(c);
	else
		for (unsigned n = 0; n < r->npost; n++)
			code_kill_lines(c, r->post[n].page, r->post[n].lines);
	r->npost = 0;
	r->post_all = false;
	code_break_chain(c);
}

static uint64_t code_line_mask(unsigned off, unsigned len)
{
	unsigned a = off / 64, b = (off + len - 1) / 64;

	return (~0ull << a) & (~0ull >> (63 - b));
}

static void code_give_back(struct scpu *c, const struct insn *i, uint64_t index)
{
	struct soft_shared *sh = c->run->sh;
	struct spage *p = &sh->page[index];

	lock(&sh->lock);
	code_post_others_locked(sh, c, index, 0);
	__atomic_store_n(&p->stores, 0, __ATOMIC_RELAXED);
	__atomic_fetch_add(&p->given, 1, __ATOMIC_RELAXED);
	__atomic_store_n(&p->lines, 0, __ATOMIC_SEQ_CST);
	unlock(&sh->lock);
	if (code_kill(c, index, 0, 4096))
		code_stop_after(c, i);
	c->code->stats.given_back++;
}

void code_stored(struct scpu *c, const struct insn *i, struct smap *m, uint64_t pa, unsigned len)
{
	struct soft_shared *sh = c->run->sh;
	uint64_t index = m->first + ((pa - m->gpa) >> 12);
	struct spage *p = &sh->page[index];

	fence_full();
	uint64_t lines = __atomic_load_n(&p->lines, __ATOMIC_SEQ_CST);
	if (likely(!lines))
		return;
	unsigned off = pa & 4095;
	uint64_t hit = lines & code_line_mask(off, len);
	if (hit) {
		if (sh->ncpu > 1 && !c->run->assist) {
			lock(&sh->lock);
			code_post_others_locked(sh, c, index, hit);
			unlock(&sh->lock);
		}
		if (code_kill(c, index, off, off + len))
			code_stop_after(c, i);
	}
	unsigned shift = MIN(__atomic_load_n(&p->given, __ATOMIC_RELAXED),
			     (unsigned)CODE_GIVE_BACK_MAX_SHIFT);
	if (__atomic_add_fetch(&p->stores, 1, __ATOMIC_RELAXED) > (unsigned)CODE_GIVE_BACK << shift)
		code_give_back(c, i, index);
}

void code_dma_wrote(struct soft_shared *sh, uint64_t gpa, uint64_t len)
{
	for (unsigned k = 0; k < sh->nmap; k++) {
		const struct smap *m = &sh->map[k];

		if (!range_overlap(gpa, len, m->gpa, m->len))
			continue;
		uint64_t at = MAX(gpa, m->gpa) - m->gpa;
		uint64_t end = MIN(gpa - m->gpa + len, m->len);
		if (gpa < m->gpa)
			end = MIN(len - (m->gpa - gpa), m->len);
		fence_full();
		while (at < end) {
			uint64_t index = m->first + (at >> 12);
			unsigned off = at & 4095;
			unsigned n = (unsigned)MIN((uint64_t)(4096 - off), end - at);
			uint64_t hit = __atomic_load_n(&sh->page[index].lines, __ATOMIC_SEQ_CST) &
				       code_line_mask(off, n);

			if (hit) {
				lock(&sh->lock);
				code_post_others_locked(sh, NULL, index, hit);
				unlock(&sh->lock);
			}
			at += n;
		}
	}
}

/* ---- decoding ---- */

/* Bytes of code at p, at most 15, in one go: they may change meanwhile. */
static void code_bytes(uint8_t buf[16], const uint8_t *p, unsigned avail)
{
	memcpy(buf, p, MIN(avail, 15u));
}

/*
 * Decode one instruction into *i; returns its length, 0 for one that raises (len 0, ends the
 * block), or -ENODATA.
 */
static int code_decode(struct scpu *c, struct insn *i, const uint8_t *bytes, unsigned avail,
		       unsigned off)
{
	int len = soft_decode(bytes, MIN(avail, 15u), c->code_size, i);

	if (unlikely(len == -EILSEQ && c->run->evex && c->code_size == 64)) {
		len = evex_decode(c->run->evex, bytes, avail, i);
		if (len > 0)
			return len;
	}
	if (len == -ENODATA)
		return len;
	if (len < 0) {
		*i = (struct insn){ .fn = len == -E2BIG ? code_toolong : soft_op_ud,
				    .base = SREG_NONE,
				    .index = SREG_NONE,
				    .flags = INSN_END,
				    .off = (uint16_t)off };
		return 0;
	}
	i->off = (uint16_t)off;
	if (i->base == SREG_RIP)
		i->disp += off;
	soft_bind(c, i, bytes, c->code_size);
	c->code->stats.insns_made++;
	return len;
}

static void code_terminate(struct insn *i, unsigned off)
{
	*i = (struct insn){
		.fn = soft_block_end,
		.off = (uint16_t)off,
		.base = SREG_NONE,
		.index = SREG_NONE,
	};
}

static struct cpage *code_page(struct soft_code *k, uint64_t index)
{
	struct cpage *p = code_at(k, k->page[index]);

	if (p)
		return p;
	p = code_alloc(k, sizeof(*p));
	*p = (struct cpage){ .index = (uint32_t)index, .next_used = k->pages_used };
	k->page[index] = k->pages_used = code_place(k, p);
	return p;
}

enum {
	/* Of the ring, those of the longest block: what code_insns_new() may overwrite. */
	CODE_ROOM = SOFT_BLOCK_MAX + 2,
};

struct insn *code_insns_kept(const struct scpu *c, const struct sblock *b)
{
	const struct soft_code *k = c->code;
	uint64_t at = b->insns_at - 1;

	if (!b->insns_at || at < k->insns_first || k->insns_head + CODE_ROOM - at > k->ninsns)
		return NULL;
	return &k->insns[(at & (k->ninsns - 1)) + 1];
}

struct insn *code_insns_new(struct scpu *c, struct sblock *b)
{
	struct soft_code *k = c->code;
	uint64_t at = k->insns_head & (k->ninsns - 1);

	if (soft_host_full(c->host))
		code_drop_insns(c);
	/* What either means may be overwritten. */
	code_unpatch(k);
	k->chain = NULL;
	/* Not around the end. */
	if (at + CODE_ROOM > k->ninsns)
		k->insns_head += k->ninsns - at;
	at = k->insns_head & (k->ninsns - 1);
	b->insns_at = k->insns_head + 1;
	memset(&k->insns[at], 0, sizeof(k->insns[at]));
	return &k->insns[at + 1];
}

void code_insns_end(struct scpu *c, struct sblock *b)
{
	struct soft_code *k = c->code;

	code_terminate(&k->insns[((b->insns_at - 1) & (k->ninsns - 1)) + 1 + b->n], b->len);
	k->insns_head += b->n + 2u;
}

/* The next instruction of b, into i; its length as code_decode() returns it. */
static int code_append(struct scpu *c, struct sblock *b, const uint8_t *page, struct insn *i)
{
	unsigned at = b->off + b->len;
	uint8_t bytes[16] = { 0 };

	code_bytes(bytes, page + at, 4096 - at);
	int len = code_decode(c, i, bytes, 4096 - at, b->len);
	if (len < 0)
		return len;
	b->n++;
	/* One that raises has no length, but a store to it must find the block. */
	b->len = (uint16_t)(b->len + (len ? len : 1));
	return len;
}

/* A block that begins at off of the page; NULL: its first instruction crosses the page's end. */
static struct sblock *code_build(struct scpu *c, const struct sxt *t, unsigned off)
{
	struct soft_code *k = c->code;

	if (k->used + sizeof(struct cpage) + sizeof(struct sblock) > CODE_ARENA ||
	    (c->jit && jit_full(c)))
		code_drop_all(c);

	uint64_t drops = k->stats.drops, marked = 0;
	struct cpage *p = code_page(k, t->index);
	struct sblock *b = (struct sblock *)(void *)(k->arena + k->used);
	*b = (struct sblock){
		.index = (uint32_t)t->index,
		.off = (uint16_t)off,
		.code_size = c->code_size,
	};
	struct insn *i = code_insns_new(c, b);
	while (b->n < SOFT_BLOCK_MAX && b->off + b->len < 4096) {
		unsigned at = b->off + b->len;
		uint64_t need = code_line_mask(at, MIN(15u, 4096 - at));

		if (need & ~marked) {
			__atomic_fetch_or(&t->page->lines, need, __ATOMIC_SEQ_CST);
			if (!marked)
				sync_unwrite(c, t->index);
			/* This vCPU rested meanwhile, and memory was mapped anew. */
			if (k->stats.drops != drops)
				return NULL;
			marked |= need;
		}
		if (code_append(c, b, t->host, i + b->n) < 0 || i[b->n - 1].flags & INSN_END)
			break;
	}
	if (!b->n)
		return NULL;
	code_insns_end(c, b);
	code_alloc(k, sizeof(*b));
	b->next = p->bucket[off / CODE_BUCKET_BYTES];
	p->bucket[off / CODE_BUCKET_BYTES] = code_place(k, b);
	k->stats.blocks_made++;
	return b;
}

static const uint8_t *code_host(const struct scpu *c, uint64_t index)
{
	const struct soft_shared *sh = soft_sh(c);

	for (unsigned n = 0; n < sh->nmap; n++)
		if (index - sh->map[n].first < sh->map[n].len >> 12)
			return sh->map[n].host + ((index - sh->map[n].first) << 12);
	BUG("a block of no page");
}

/*
 * The lines are marked, so the bytes are what they were, unless another vCPU stored to them and
 * this one has not been told yet.
 */
struct insn *code_insns(struct scpu *c, struct sblock *b)
{
	struct insn *i = code_insns_kept(c, b);
	unsigned n = b->n, len = b->len;

	if (likely(i))
		return i;
	const uint8_t *page = code_host(c, b->index);
	i = code_insns_new(c, b);
	b->n = 0;
	b->len = 0;
	while (b->n < n && code_append(c, b, page, i + b->n) >= 0)
		;
	if (b->n == n && b->len == len) {
		code_insns_end(c, b);
		return i;
	}
	b->insns_at = 0;
	b->n = (uint8_t)n;
	b->len = (uint16_t)len;
	code_kill(c, b->index, b->off, b->off + len);
	return NULL;
}

/* ---- look-up ---- */

static ALWAYS_INLINE uint64_t code_key(uint64_t lin, unsigned code_size)
{
	/* 64: as it is; 32 and 16: bits 62 and 61, which are those of no canonical address. */
	return code_size == 64 ? lin : lin ^ (uint64_t)code_size << 57;
}

static ALWAYS_INLINE struct cjump *code_jump(struct soft_code *k, uint64_t lin)
{
	return &k->jc[(lin ^ lin >> 12) & (CODE_JC - 1)];
}

static struct sblock *code_in_page(struct soft_code *k, uint64_t index, unsigned off,
				   unsigned code_size)
{
	const struct cpage *p = code_at(k, k->page[index]);

	if (!p)
		return NULL;
	for (struct sblock *b = code_at(k, p->bucket[off / CODE_BUCKET_BYTES]); b;
	     b = code_at(k, b->next))
		if (b->off == off && b->code_size == code_size)
			return b;
	return NULL;
}

/* NULL: code_step() must do it.  Raises when the code cannot be fetched. */
static NOINLINE struct sblock *code_lookup(struct scpu *c, uint64_t rip, uint64_t lin)
{
	struct soft_code *k = c->code;
	uint64_t pa;

	if (!code_flat(c) && rip > c->seg[X86_CS].limit)
		soft_raise(c, NULL, X86_EXC_GP, 0);
	const struct sxt *t = mmu_code(c, lin, &pa);
	if (!t)
		return NULL;
	if (c->cpl < 3 && !(t->fl & SX_G))
		jit_local_code(c);
	struct sblock *b = code_in_page(k, t->index, lin & 4095, c->code_size);
	if (!b)
		b = code_build(c, t, lin & 4095);
	if (!b)
		return NULL;
	if (!code_flat(c))
		return rip + b->len - 1 <= c->seg[X86_CS].limit ? b : NULL;
	*code_jump(k, lin) = (struct cjump){ code_key(lin, c->code_size), t->pa, b, 0 };
	return b;
}

static void code_link(struct csucc *from, uint64_t rip, struct sblock *to)
{
	unsigned n = from->s[1].rip == rip && from->s[1].b ? 1 : 0;

	if (!n && from->s[0].rip != rip)
		from->s[1] = from->s[0];
	from->s[n].rip = rip;
	from->s[n].b = to;
}

static ALWAYS_INLINE struct sblock *code_next(struct scpu *c, struct soft_code *k, uint64_t rip)
{
	struct csucc *from = k->chain;
	struct sblock *b;
	bool near = from && (rip ^ c->gpr[SREG_RIP]) < 4096;

	if (near) {
		if (from->s[0].rip == rip)
			b = from->s[0].b;
		else if (from->s[1].rip == rip)
			b = from->s[1].b;
		else
			b = NULL;
		if (likely(b && !b->dead))
			return b;
	}
	uint64_t lin = (rip + c->sbase[X86_CS]) & c->lin_mask;
	const struct cjump *e = code_jump(k, lin);
	const struct sxt *t = &c->mmu->xt_now[lin >> 12 & (SOFT_XT - 1)];
	if (likely(e->key == code_key(lin, c->code_size) && t->tag == (lin & ~0xfffull) &&
		   t->pa == e->pa && !e->b->dead))
		b = e->b;
	else
		b = code_lookup(c, rip, lin);
	if (near && b && k->chain == from)
		code_link(from, rip, b);
	return b;
}

void code_running(struct scpu *c, struct sblock *b)
{
	c->code->last = b;
}

/* Run it translated; false: it is interpreted once more. */
static ALWAYS_INLINE bool code_translated(struct scpu *c, struct sblock *b)
{
	uint32_t mode = jit_mode(c), n;

	if (!mode)
		return false;
	mode |= c->jit_single;
	c->jit_single = 0;
	n = jit_find(c, b->jit, mode);
	if (!n) {
		if (b->runs < c->code->hot && !jit_lockstep(c)) {
			b->runs++;
			return false;
		}
		if (b->runs == SBLOCK_NEVER)
			return false;
		n = code_insns(c, b) && !jit_full(c)
			    ? jit_translate(c, b, code_host(c, b->index), mode)
			    : 0;
		if (!n) {
			b->runs = SBLOCK_NEVER;
			return false;
		}
	}
	c->code->last = NULL;
	c->code->chain = NULL;
	jit_go(c, n, mode);
	return true;
}

void code_run(struct scpu *c)
{
	struct soft_code *k = c->code;
	struct soft_run *r = c->run;

	code_unpatch(k);
	k->last = NULL;
	k->chain = NULL;
	jit_forget_exit(c);
	while (likely(!__atomic_load_n(&c->exit_req, __ATOMIC_RELAXED))) {
		uint64_t rip = c->rip;

		if (unlikely(r->prof))
			prof_between(c);
		struct sblock *b = code_next(c, k, rip);
		if (unlikely(!b)) {
			(void)code_step(c);
			continue;
		}
		if (c->jit && code_translated(c, b))
			continue;
		const struct insn *i = code_insns(c, b);
		if (unlikely(!i)) {
			(void)code_step(c);
			continue;
		}
		c->gpr[SREG_RIP] = rip;
		k->last = b;
		k->chain = (struct csucc *)((uintptr_t)&i[-1] & k->chain_mask);
		r->blocks++;
		r->insns += b->n;
		if (unlikely(r->prof))
			prof_interprets(c, b);
		i->fn(c, i);
	}
}

/* Bytes at the RIP into buf, up to the end of the page and, if more is asked for, the next one. */
static unsigned code_fetch(struct scpu *c, uint64_t lin, uint8_t *buf, unsigned have, unsigned want)
{
	while (have < want) {
		uint64_t at = (lin + have) & c->lin_mask, pa;
		unsigned n = MIN(want - have, 4096 - (unsigned)(at & 4095));
		const struct sxt *t = mmu_code(c, at, &pa);

		if (t) {
			memcpy(buf + have, t->host + (at & 4095), n);
		} else {
			for (unsigned k = 0; k < n; k++)
				buf[have + k] = (uint8_t)bus_read(c->v.vm->o.mmio, pa + k, 1);
		}
		have += n;
	}
	return have;
}

void code_finish(struct scpu *c)
{
	code_unpatch(c->code);
}

/* The instruction at RIP into *i; raises when its bytes cannot be fetched. */
static int code_one(struct scpu *c, struct insn *i)
{
	uint64_t lin = (c->rip + c->sbase[X86_CS]) & c->lin_mask;
	uint8_t bytes[16] = { 0 };

	if (!code_flat(c) && c->rip > c->seg[X86_CS].limit)
		soft_raise(c, NULL, X86_EXC_GP, 0);
	unsigned have = code_fetch(c, lin, bytes, 0, MIN(15u, 4096 - (unsigned)(lin & 4095)));
	int len = code_decode(c, i, bytes, have, 0);
	if (len == -ENODATA) {
		have = code_fetch(c, lin, bytes, have, 15);
		len = code_decode(c, i, bytes, have, 0);
	}
	/* Fifteen bytes are always enough to tell. */
	if (len < 0)
		soft_raise(c, NULL, X86_EXC_GP, 0);
	return len;
}

bool code_peek(struct scpu *c, struct insn *i)
{
	if (soft_host_full(c->host))
		code_drop_insns(c);
	return code_one(c, i) > 0;
}

unsigned code_step(struct scpu *c)
{
	struct soft_code *k = c->code;
	uint64_t rip = c->rip;

	code_unpatch(k);
	if (soft_host_full(c->host))
		code_drop_insns(c);
	k->last = NULL;
	k->chain = NULL;
	int len = code_one(c, &k->one[0]);
	if (!code_flat(c) && rip + (len ? (unsigned)len : 1) - 1 > c->seg[X86_CS].limit)
		soft_raise(c, NULL, X86_EXC_GP, 0);
	code_terminate(&k->one[1], (unsigned)len);
	c->gpr[SREG_RIP] = rip;
	c->run->insns++;
	unsigned sop = insn_forms[k->one[0].form].sop;
	if (unlikely(c->run->prof))
		prof_steps(c, k->one);
	k->one[0].fn(c, k->one);
	return sop;
}
