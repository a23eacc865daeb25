/*
 * AVX-512 of integers, moves and masks, for the assist (SDM 2A 2.7, 2C; SDM 1 15).
 *
 * Where KVM runs ring 0 in its emulator and CPUID is not virtualised, a stock kernel finds the
 * host's AVX-512 and uses it in its hash functions, which that emulator cannot do.  The soft engine
 * proper does not offer AVX-512 and has no registers for it; here the state is the other engine's
 * XSAVE image (soft_run.more).
 *
 * How.  The host decides what is a valid encoding and what it computes.  We decide what it may
 * touch: the instruction's bytes are encoded anew with the memory operand replaced by [rdi], a
 * buffer of ours, and a general register by r8 (ModRM.reg) or r9 (ModRM.rm); everything else of it
 * stays.  A stub loads the guest's vector state with XRSTOR, runs it, and stores the state with
 * XSAVE.  An encoding that the host refuses ends as SIGILL, which host.c makes a #UD of.
 *
 * Hostile bytes.  Only the opcodes in evex_maps[] and those of the opmask registers are copied: no
 * control transfer, nothing with an address of its own (gathers, scatters), no floating point
 * exceptions.  In the opcode maps that EVEX selects there are no others than vector instructions.
 *
 * Memory.  The tables give the operand's size by opcode, vector length and W: from it follow also
 * what an 8-bit displacement counts in (2.7.5) and which bytes a mask excludes.  Excluded bytes are
 * neither read nor written and do not fault (2.7.9, classes without NF).
 *
 * An encoding that the host refuses and whose memory operand faults, too, raises the fault (#UD
 * comes when that is mended): memory is read before the host is asked.
 *
 * Left out: floating point arithmetic, gathers and scatters, code of 16 and 32 bits: #UD.
 */
#include "accel/soft/evex_int.h"
#include "accel/soft/insn.h"

#include "base/num.h"

#include <errno.h>
#include <string.h>

enum {
	CODE_MAX = 15,
};

const struct insn_form evex_form = {
	.name = "AVX512",
	.class = INSC_HOST,
	.flags = INSF_AVX | INSF_PROT,
};

/* ---- the table ---- */

/* By a letter in evex_maps[]. */
static const struct evex_shape {
	/* The vector's length divided by this, or, when 0, so many bytes. */
	uint8_t div, bytes;
	uint8_t elem;
	uint16_t how;
} evex_shapes[128] = {
	/* Vectors of bytes, words, either by W, doublewords or quadwords by W. */
	['b'] = { 1, 0, 1, 0 },
	['w'] = { 1, 0, 2, 0 },
	['x'] = { 1, 0, 1, EV_ELEM_W },
	['d'] = { 1, 0, 4, EV_ELEM_W },
	['B'] = { 1, 0, 1, EV_WHOLE },
	['W'] = { 1, 0, 2, EV_WHOLE },
	['X'] = { 1, 0, 1, EV_WHOLE | EV_ELEM_W },
	['D'] = { 1, 0, 4, EV_WHOLE | EV_ELEM_W },
	['M'] = { 1, 0, 1, EV_ST | EV_ELEM_W },
	['m'] = { 1, 0, 4, EV_ST | EV_ELEM_W },
	['a'] = { 1, 0, 4, EV_ALIGN | EV_ELEM_W },
	['A'] = { 1, 0, 4, EV_ST | EV_ALIGN | EV_ELEM_W },
	/* Parts of a vector: widened, narrowed. */
	['1'] = { 2, 0, 1, 0 },
	['2'] = { 4, 0, 1, 0 },
	['3'] = { 8, 0, 1, 0 },
	['4'] = { 2, 0, 2, 0 },
	['5'] = { 4, 0, 2, 0 },
	['6'] = { 2, 0, 4, 0 },
	['p'] = { 2, 0, 1, EV_ST },
	['q'] = { 4, 0, 1, EV_ST },
	['r'] = { 8, 0, 1, EV_ST },
	['s'] = { 2, 0, 2, EV_ST },
	['t'] = { 4, 0, 2, EV_ST },
	['u'] = { 2, 0, 4, EV_ST },
	/* 16 and 32 bytes: shift counts and what is inserted; what is extracted. */
	['v'] = { 0, 16, 4, EV_WHOLE },
	['V'] = { 0, 32, 4, EV_WHOLE },
	['h'] = { 0, 16, 4, EV_ST | EV_ELEM_W },
	['H'] = { 0, 32, 4, EV_ST | EV_ELEM_W },
	/* One element of 4 or 8 bytes; 8 bytes that are not masked. */
	['o'] = { 0, 4, 4, EV_LEN_W | EV_ELEM_W },
	['O'] = { 0, 4, 4, EV_ST | EV_LEN_W | EV_ELEM_W },
	['8'] = { 0, 8, 8, EV_WHOLE },
	['9'] = { 0, 8, 8, EV_ST },
	/* VMOVDDUP: 8 bytes, or a vector of more than 16. */
	['*'] = { 1, 0, 8, EV_WHOLE },
	/* Broadcast: 1 to 32 bytes; the element is that of the destination. */
	['c'] = { 0, 1, 1, EV_ANY },
	['f'] = { 0, 2, 2, EV_ANY },
	['g'] = { 0, 4, 4, EV_ANY },
	['j'] = { 0, 8, 4, EV_ANY | EV_ELEM_W },
	['k'] = { 0, 16, 4, EV_ANY | EV_ELEM_W },
	['n'] = { 0, 32, 4, EV_ANY | EV_ELEM_W },
	/* Expand and compress. */
	['e'] = { 0, 1, 1, EV_PACK | EV_LEN_W | EV_ELEM_W },
	['E'] = { 0, 4, 4, EV_PACK | EV_LEN_W | EV_ELEM_W },
	['z'] = { 0, 1, 1, EV_ST | EV_PACK | EV_LEN_W | EV_ELEM_W },
	['Z'] = { 0, 4, 4, EV_ST | EV_PACK | EV_LEN_W | EV_ELEM_W },
	/* General registers: moved in and out, or memory in their place. */
	['G'] = { 0, 4, 4, EV_WHOLE | EV_RM_GPR | EV_LEN_W },
	['P'] = { 0, 1, 1, EV_WHOLE | EV_RM_GPR },
	['Q'] = { 0, 2, 2, EV_WHOLE | EV_RM_GPR },
	['S'] = { 0, 4, 4, EV_ST | EV_RM_GPR | EV_LEN_W | EV_ELEM_W },
	['R'] = { 0, 1, 1, EV_ST | EV_RM_GPR },
	['T'] = { 0, 2, 2, EV_ST | EV_RM_GPR },
	['%'] = { 0, 4, 4, EV_ST | EV_RM_GPR },
	['@'] = { 0, 0, 0, EV_NOMEM | EV_RM_GPR },
	['Y'] = { 0, 0, 0, EV_NOMEM | EV_REG_GPR },
	['-'] = { 0, 0, 0, EV_NOMEM },
};

/* clang-format off */
/* Opcodes by map, prefix (none, 66, F3, F2) and opcode; a dot is one that we do not run. */
static const struct evex_map {
	uint8_t map, pp;
	char shape[16][17];
} evex_maps[] = {
	{ 1, 0, {
	"................", "dm89DD89........", "........aA.A....", "................",
	"................", "....dddd........", "................", "................",
	"................", "................", "................", "................",
	"......D.........", "................", "................", "................" } },
	{ 1, 1, {
	"................", "dm89DD89........", "........aA.A....", "................",
	"................", "....dddd........", "BWDWbwdWBWDDDDGa", "DwddbwD.......SA",
	"................", "................", "................", "................",
	"....QYD.........", ".vvvdw9.bwbdbwbd", "bvvwww.Abwwdbwwd", ".vvvdWB.bwddbwd." } },
	{ 1, 2, {
	"................", "oOD...D.........", "................", "................",
	"................", "................", "...............d", "W.............8m",
	"................", "................", "................", "................",
	"................", "................", "................", "................" } },
	{ 1, 3, {
	"................", "oO*.............", "................", "................",
	"................", "................", "...............x", "W..............M",
	"................", "................", "................", "................",
	"................", "................", "................", "................" } },
	{ 2, 1, {
	"B...W......wDD..", "www.ddD.gjknbwdd", "123456xdddaD....", "123456Ddbdwdbdwd",
	"d...dddd........", "ddddxd..gjkn....", "..ezddx.........", "wdwd.XDDcf@@@XDD",
	"...D....EEZZ.X.b", "................", "................", "....dd..........",
	"....D..........b", "............BBBB", "................", "................" } },
	{ 2, 2, {
	"................", "pqrstu..........", "pqrstuxd---.....", "pqrstu..---.....",
	"................", "................", "................", "................",
	"................", "................", "................", "................",
	"................", "................", "................", "................" } },
	{ 3, 1, {
	"DD.DDD.........B", "....RTS%vhVH..dd", "PoGD.d..........", "........vhVH..xx",
	"..BDD...........", "................", "................", "wdwd............",
	"................", "................", "................", "................",
	"..............DD", "................", "................", "................" } },
};
/* clang-format on */

static const struct evex_shape *evex_shape(unsigned map, unsigned pp, uint8_t opcode)
{
	for (unsigned n = 0; n < COUNT_OF(evex_maps); n++) {
		const struct evex_map *m = &evex_maps[n];
		char c = m->shape[opcode >> 4][opcode & 15];

		if (m->map == map && m->pp == pp)
			return c == '.' ? NULL : &evex_shapes[(unsigned char)c];
	}
	return NULL;
}

/* ---- decoding ---- */

/* The bytes of an instruction, cut up. */
struct evex_bytes {
	const uint8_t *p;
	unsigned avail;
	/* Segment and address size prefixes; with EVEX or VEX and the opcode. */
	unsigned pfx, head;
	/* REX bits R, X, B as in REX. */
	unsigned rex;
	unsigned map, pp, w, imm;
};

/*
 * ModRM, SIB and displacement are those of a MOVUPS that has them, too (any registers, any memory).
 * Returns the whole length.
 */
static int evex_modrm(const struct evex_bytes *b, struct insn *i)
{
	uint8_t as[CODE_MAX] = { 0 };
	unsigned n = b->pfx;

	if (n + 3 >= CODE_MAX || b->head >= CODE_MAX)
		return -E2BIG;
	memcpy(as, b->p, n);
	as[n++] = (uint8_t)(0x40 | b->rex);
	as[n++] = 0x0f;
	as[n++] = 0x10;
	unsigned more = b->avail - b->head;
	more = MIN(more, CODE_MAX - n);
	memcpy(as + n, b->p + b->head, more);
	int rc = soft_decode(as, n + more, 64, i);
	if (rc < 0)
		return rc;
	unsigned len = (unsigned)rc - n + b->head + b->imm;
	if (len > CODE_MAX)
		return -E2BIG;
	if (len > b->avail)
		return -ENODATA;
	if (i->base == SREG_RIP)
		i->disp += (int64_t)len - rc;
	i->len = (uint8_t)len;
	i->form = FORM_NONE;
	i->off = 0;
	return (int)len;
}

/* ModRM of the copy: [rdi], or r8 and r9 in place of general registers. */
static uint8_t evex_copy_modrm(const struct insn *i, unsigned how)
{
	unsigned m = i->modrm;

	if (i->flags & INSN_MEM)
		m = (m & 0x38) | X86_RDI;
	else if (how & EV_RM_GPR)
		m = (m & 0xf8) | (X86_R9 & 7);
	if (how & EV_REG_GPR)
		m = (m & 0xc7) | (X86_R8 & 7) << 3;
	return (uint8_t)m;
}

/* Inverted R, X, B (bits 7-5 of both prefixes) of the copy. */
static uint8_t evex_copy_rxb(uint8_t rxb, const struct insn *i, unsigned how)
{
	if (i->flags & INSN_MEM)
		rxb |= 0x60;
	else if (how & EV_RM_GPR)
		rxb = (rxb | 0x40) & (uint8_t)~0x20;
	if (how & EV_REG_GPR)
		rxb &= (uint8_t)~0x80;
	return rxb;
}

static void evex_copy(struct evex_op *o, const struct evex_bytes *b, const struct insn *i)
{
	const uint8_t *p = b->p + b->pfx;

	o->copy[0] = 0x62;
	o->copy[1] = evex_copy_rxb(p[1], i, o->how);
	/* R' */
	if (o->how & EV_REG_GPR)
		o->copy[1] |= 0x10;
	o->copy[2] = p[2];
	o->copy[3] = p[3];
	o->copy[4] = p[4];
	o->copy[5] = evex_copy_modrm(i, o->how);
	o->copy[6] = b->p[i->len - 1];
	o->ncopy = (uint8_t)(6 + b->imm);
}

/* Has the opcode an immediate byte?  In map 2 none has, in map 3 all. */
static bool evex_has_imm(unsigned map, uint8_t opcode)
{
	if (map == 1)
		return (opcode >= 0x70 && opcode <= 0x73) ||
		       (opcode >= 0xc2 && opcode <= 0xc6 && opcode != 0xc3);
	return map == 3;
}

/* Sizes of the memory operand. */
static void evex_sizes(struct evex_op *o, const struct evex_shape *s, unsigned ll, unsigned w,
		       bool bcast)
{
	o->vl = (uint8_t)(16u << MIN(ll, 2u));
	o->elem = (uint8_t)(s->how & EV_ELEM_W ? s->elem << w : s->elem);
	o->len = (uint8_t)(s->how & EV_LEN_W ? s->bytes << w : s->bytes);
	if (s->div)
		o->len = o->vl / s->div;
	if (s == &evex_shapes['*'] && !ll)
		o->len = 8;
	if (bcast) {
		o->len = o->elem;
		o->how |= EV_ANY;
	}
	o->scale = o->len;
}

static int evex_decode_evex(struct evex_op *o, struct evex_bytes *b, struct insn *i)
{
	const uint8_t *p = b->p + b->pfx;

	b->head = b->pfx + 5;
	if (b->avail < b->head)
		return b->avail >= CODE_MAX ? -E2BIG : -ENODATA;
	b->rex = (~p[1] >> 5) & 7;
	b->map = p[1] & 15;
	b->pp = p[2] & 3;
	b->w = p[2] >> 7;
	b->imm = evex_has_imm(b->map, p[4]);
	const struct evex_shape *s = evex_shape(b->map, b->pp, p[4]);
	if (!s || !(p[2] & 4))
		return -EILSEQ;
	o->how = s->how;
	o->k = p[3] & 7;
	int len = evex_modrm(b, i);
	if (len < 0)
		return len;
	bool mem = i->flags & INSN_MEM;
	if (mem && s->how & EV_NOMEM)
		return -EILSEQ;
	evex_sizes(o, s, p[3] >> 5 & 3, b->w, mem && p[3] & 0x10);
	if (mem && i->modrm >> 6 == 1)
		i->disp *= o->scale;
	evex_copy(o, b, i);
	return len;
}

/* KMOV, KAND ... KTEST, KSHIFT (SDM 2A, VEX maps 1 and 3). */
static bool evex_is_opmask(const struct evex_bytes *b, uint8_t opcode)
{
	if (b->map == 3)
		return opcode >= 0x30 && opcode <= 0x33;
	return b->map == 1 &&
	       ((opcode >= 0x41 && opcode <= 0x4b) || (opcode >= 0x90 && opcode <= 0x93) ||
		opcode == 0x98 || opcode == 0x99);
}

static void evex_opmask_op(struct evex_op *o, const struct evex_bytes *b, uint8_t opcode)
{
	static const uint8_t size[4][2] = { { 2, 8 }, { 1, 4 } };

	o->how = EV_NOMEM;
	if (b->map == 1 && (opcode == 0x90 || opcode == 0x91)) {
		o->how = opcode == 0x91 ? EV_ST : EV_WHOLE;
		o->len = o->elem = o->scale = size[b->pp][b->w];
	}
	if (b->map == 1 && opcode == 0x92)
		o->how |= EV_RM_GPR;
	if (b->map == 1 && opcode == 0x93)
		o->how |= EV_REG_GPR;
	o->flags_out = b->map == 1 && opcode >= 0x98;
}

static int evex_decode_opmask(struct evex_op *o, struct evex_bytes *b, struct insn *i)
{
	const uint8_t *p = b->p + b->pfx;
	bool three = p[0] == 0xc4;

	b->head = b->pfx + 3 + three;
	if (b->avail < b->head)
		return b->avail >= CODE_MAX ? -E2BIG : -ENODATA;
	uint8_t rxb = three ? p[1] & 0xe0 : (p[1] & 0x80) | 0x60, last = p[1 + three];
	uint8_t opcode = p[2 + three];
	b->rex = (~rxb >> 5) & 7;
	b->map = three ? p[1] & 31 : 1;
	b->pp = last & 3;
	b->w = three ? last >> 7 : 0;
	b->imm = b->map == 3;
	if (!evex_is_opmask(b, opcode))
		return -EILSEQ;
	evex_opmask_op(o, b, opcode);
	int len = evex_modrm(b, i);
	if (len < 0)
		return len;
	if (i->flags & INSN_MEM && (o->how & EV_NOMEM || !o->len))
		return -EILSEQ;
	o->copy[0] = 0xc4;
	o->copy[1] = evex_copy_rxb(rxb, i, o->how) | (uint8_t)b->map;
	o->copy[2] = (uint8_t)((last & 0x7f) | b->w << 7);
	o->copy[3] = opcode;
	o->copy[4] = evex_copy_modrm(i, o->how);
	o->copy[5] = b->p[len - 1];
	o->ncopy = (uint8_t)(5 + b->imm);
	return len;
}

static bool evex_is_prefix(uint8_t b)
{
	return (b & 0xe7) == 0x26 || b == 0x64 || b == 0x65 || b == 0x67;
}

static int evex_decode_op(struct evex_op *o, const uint8_t *p, unsigned avail, struct insn *i)
{
	struct evex_bytes b = { .p = p, .avail = MIN(avail, (unsigned)CODE_MAX) };

	*o = (struct evex_op){ 0 };
	while (b.pfx < b.avail && evex_is_prefix(p[b.pfx]))
		b.pfx++;
	if (b.pfx == b.avail)
		return b.avail >= CODE_MAX ? -E2BIG : -ENODATA;
	if (p[b.pfx] == 0x62)
		return evex_decode_evex(o, &b, i);
	if (p[b.pfx] == 0xc4 || p[b.pfx] == 0xc5)
		return evex_decode_opmask(o, &b, i);
	return -EILSEQ;
}

int evex_decode(struct soft_evex *x, const uint8_t *p, unsigned avail, struct insn *i)
{
	struct evex_op o;
	int rc = evex_decode_op(x ? &x->op : &o, p, avail, i);

	if (rc > 0)
		i->fn = evex_insn;
	return rc;
}

struct evex_mem evex_mem_of(const uint8_t *p, unsigned avail, int *ret_len)
{
	struct evex_op o;
	struct insn i;

	*ret_len = evex_decode_op(&o, p, avail, &i);
	if (*ret_len < 0 || !(i.flags & INSN_MEM))
		return (struct evex_mem){ 0 };
	return (struct evex_mem){ o.len, o.scale, o.how & EV_ST };
}
