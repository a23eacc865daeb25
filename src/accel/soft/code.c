/*
 * Decoded code: blocks, how they are found, and how a store to code is noticed.
 *
 * A block is a run of decoded instructions inside one page, found by physical address and code
 * size, so address spaces that share code share blocks.  Each vCPU has its own (an arena that is
 * dropped as a whole when it is full).  Three look-ups, fastest first: the successor that the last
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
	CODE_BUCKETS = 64,
	CODE_MAX_LEN = 15,
	/* Slow stores until a page is given back the first time; doubles each time. */
	CODE_GIVE_BACK = 64,
	CODE_GIVE_BACK_MAX_SHIFT = 12,
};
#define CODE_ARENA MIB(64)
#define CODE_INSNS MIB(64)
#define CODE_INSNS_JIT MIB(6)

/* Blocks of one page by the line that they begin in. */
struct cpage {
	uint64_t index;
	struct cpage *next_used;
	struct sblock *bucket[CODE_BUCKETS];
};

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
	/* The same when its remembered successors may be used: CS is flat from 0, and neither mode
	 * nor translations changed in it. */
	struct sblock *chain;
	uint64_t chain_mask;
	struct cjump jc[CODE_JC];
	/* Blocks and pages, and the instructions of blocks. */
	uint8_t *arena, *insns;
	size_t used, insns_size, insns_used;
	struct cpage **page;
	uint64_t npages;
	struct cpage *pages_used;
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
static uint8_t *code_map(size_t size)
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
	/* Translated blocks need their instructions seldom. */
	k->insns_size = soft_sh(c)->jit ? CODE_INSNS_JIT : CODE_INSNS;
	k->arena = code_map(CODE_ARENA);
	k->insns = code_map(k->insns_size);
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
		munmap(k->insns, k->insns_size);
	free(k->page);
	free(k);
	c->code = NULL;
}

/* Forget instructions, not blocks; between blocks. */
static void code_drop_insns(struct scpu *c)
{
	struct soft_code *k = c->code;

	for (struct cpage *p = k->pages_used; p; p = p->next_used)
		for (unsigned n = 0; n < CODE_BUCKETS; n++)
			for (struct sblock *b = p->bucket[n]; b; b = b->next)
				b->insn = NULL;
	k->insns_used = 0;
	k->last = k->chain = NULL;
	k->patched = NULL;
	soft_host_reset(c->host);
	k->stats.insn_drops++;
}

void code_drop_all(struct scpu *c)
{
	struct soft_code *k = c->code;

	for (struct cpage *p = k->pages_used; p; p = p->next_used)
		k->page[p->index] = NULL;
	k->pages_used = NULL;
	k->used = k->insns_used = 0;
	k->last = k->chain = NULL;
	k->patched = NULL;
	code_forget_jumps(k);
	jit_drop_all(c);
	soft_host_reset(c->host);
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

	k->used += align_up(size, 64);
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
	struct cpage *p = k->page[index];
	bool running = false;

	if (!p)
		return false;
	/* A block is shorter than SOFT_BLOCK_MAX * 15 bytes. */
	unsigned reach = SOFT_BLOCK_MAX * CODE_MAX_LEN,
		 first = from > reach ? (from - reach) / 64 : 0;
	for (unsigned n = first; n <= (to - 1) / 64; n++) {
		for (struct sblock **at = &p->bucket[n]; *at;) {
			struct sblock *b = *at;

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
	struct cpage *p = k->page[index];

	if (p)
		return p;
	p = code_alloc(k, sizeof(*p));
	memset(p, 0, sizeof(*p));
	p->index = index;
	p->next_used = k->pages_used;
	k->pages_used = p;
	return k->page[index] = p;
}

/* Room for the instructions of one block, and for their stubs. */
static void code_room(struct scpu *c)
{
	const struct soft_code *k = c->code;

	if (k->insns_used + (SOFT_BLOCK_MAX + 1) * sizeof(struct insn) > k->insns_size ||
	    soft_host_full(c->host))
		code_drop_insns(c);
}

static struct insn *code_insns_next(const struct soft_code *k)
{
	return (struct insn *)(void *)(k->insns + k->insns_used);
}

/* The next instruction of b, whose bytes begin at p; its length as code_decode() returns it. */
static int code_append(struct scpu *c, struct sblock *b, const uint8_t *page)
{
	unsigned at = b->off + b->len;
	uint8_t bytes[16] = { 0 };
	struct insn *i = &b->insn[b->n];

	code_bytes(bytes, page + at, 4096 - at);
	int len = code_decode(c, i, bytes, 4096 - at, b->len);
	if (len < 0)
		return len;
	b->n++;
	/* One that raises has no length, but a store to it must find the block. */
	b->len = (uint16_t)(b->len + (len ? len : 1));
	return len;
}

static void code_end_insns(struct soft_code *k, struct sblock *b)
{
	code_terminate(&b->insn[b->n], b->len);
	k->insns_used += (b->n + 1u) * sizeof(struct insn);
}

/* A block that begins at off of the page; NULL: its first instruction crosses the page's end. */
static struct sblock *code_build(struct scpu *c, const struct sxt *t, unsigned off)
{
	struct soft_code *k = c->code;

	if (k->used + sizeof(struct cpage) + sizeof(struct sblock) > CODE_ARENA ||
	    (c->jit && jit_full(c)))
		code_drop_all(c);
	code_room(c);

	uint64_t drops = k->stats.drops, marked = 0;
	struct cpage *p = code_page(k, t->index);
	struct sblock *b = (struct sblock *)(void *)(k->arena + k->used);
	*b = (struct sblock){
		.index = (uint32_t)t->index,
		.off = (uint16_t)off,
		.code_size = c->code_size,
		.insn = code_insns_next(k),
	};
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
		if (code_append(c, b, t->host) < 0 || b->insn[b->n - 1].flags & INSN_END)
			break;
	}
	if (!b->n)
		return NULL;
	code_end_insns(k, b);
	code_alloc(k, sizeof(*b));
	b->next = p->bucket[off / 64];
	p->bucket[off / 64] = b;
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
	const uint8_t *page = code_host(c, b->index);
	struct soft_code *k = c->code;
	unsigned n = b->n, len = b->len;

	if (likely(b->insn))
		return b->insn;
	code_room(c);
	b->insn = code_insns_next(k);
	b->n = 0;
	b->len = 0;
	while (b->n < n && code_append(c, b, page) >= 0)
		;
	if (b->n == n && b->len == len) {
		code_end_insns(k, b);
		return b->insn;
	}
	b->insn = NULL;
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
	const struct cpage *p = k->page[index];

	if (!p)
		return NULL;
	for (struct sblock *b = p->bucket[off / 64]; b; b = b->next)
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

static void code_link(struct sblock *from, uint64_t rip, struct sblock *to)
{
	unsigned n = from->succ[1].rip == rip && from->succ[1].b ? 1 : 0;

	if (!n && from->succ[0].rip != rip)
		from->succ[1] = from->succ[0];
	from->succ[n].rip = rip;
	from->succ[n].b = to;
}

static ALWAYS_INLINE struct sblock *code_next(struct scpu *c, struct soft_code *k, uint64_t rip)
{
	struct sblock *from = k->chain, *b;
	bool near = from && (rip ^ c->gpr[SREG_RIP]) < 4096;

	if (near) {
		if (from->succ[0].rip == rip)
			b = from->succ[0].b;
		else if (from->succ[1].rip == rip)
			b = from->succ[1].b;
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
	c->code->last = c->code->chain = NULL;
	jit_go(c, n, mode);
	return true;
}

void code_run(struct scpu *c)
{
	struct soft_code *k = c->code;
	struct soft_run *r = c->run;

	code_unpatch(k);
	k->last = k->chain = NULL;
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
		if (unlikely(!code_insns(c, b))) {
			(void)code_step(c);
			continue;
		}
		c->gpr[SREG_RIP] = rip;
		k->last = b;
		k->chain = (struct sblock *)((uintptr_t)b & k->chain_mask);
		r->blocks++;
		r->insns += b->n;
		if (unlikely(r->prof))
			prof_interprets(c, b);
		b->insn[0].fn(c, b->insn);
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
	k->last = k->chain = NULL;
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
