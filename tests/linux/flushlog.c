/*
 * flushlog DEVICE BLOCKS SEED: write 4 KiB blocks in random order and say what is safe.
 *
 * Each block holds its number and a sequence number, repeated.  After a batch of writes comes
 * fdatasync(); only when it returned is the batch printed ("F block seq" for each), so whoever reads
 * the output knows what must be found on the disk whatever happens to the machine next.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	BLOCK = 4096,
	BATCH = 16,
};

static uint64_t rnd(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static int write_block(int fd, uint64_t block, uint64_t seq)
{
	static uint64_t buf[BLOCK / 8] __attribute__((aligned(BLOCK)));

	for (unsigned i = 0; i < BLOCK / 8; i += 2) {
		buf[i] = block;
		buf[i + 1] = seq;
	}
	return pwrite(fd, buf, BLOCK, (off_t)(block * BLOCK)) == BLOCK ? 0 : -1;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	uint64_t blocks = strtoull(argv[2], NULL, 0), s = strtoull(argv[3], NULL, 0) | 1, seq = 1;
	int fd = open(argv[1], O_RDWR | (s & 2 ? O_DIRECT : 0));

	if (fd < 0) {
		perror(argv[1]);
		return 1;
	}
	for (;;) {
		uint64_t at[BATCH], first = seq;

		for (unsigned i = 0; i < BATCH; i++) {
			at[i] = rnd(&s) % blocks;
			if (write_block(fd, at[i], seq++) < 0) {
				perror("write");
				return 1;
			}
		}
		if (fdatasync(fd) < 0) {
			perror("fdatasync");
			return 1;
		}
		for (unsigned i = 0; i < BATCH; i++)
			printf("F %lu %lu\n", (unsigned long)at[i], (unsigned long)(first + i));
		fflush(stdout);
	}
}
