/*
 * Checksums and segments for a guest's frame: 12 bytes of header, then the frame.  It is refused,
 * or every frame that comes out fits the wire and is made of bytes of the one that came in.
 */
#include "net/net_int.h"

#include "base/bug.h"
#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

static size_t out_bytes, out_frames;

static void out_frame(struct net_offload_out *o UNUSED, const uint8_t *frame, size_t len)
{
	volatile uint8_t sum = 0;

	BUG_ON(!len || len > 1514);
	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + frame[i]);
	out_bytes += len;
	out_frames++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct net_offload_out o = { out_frame };
	uint8_t hdr[NET_HDR_LEN];

	if (size <= NET_HDR_LEN || size > NET_FRAME_MAX)
		return 0;
	memcpy(hdr, data, sizeof(hdr));
	size_t len = size - NET_HDR_LEN;
	/* Exactly as long, for the sanitizer to see one byte too many. */
	uint8_t *frame = malloc(len);
	if (!frame)
		return 0;
	memcpy(frame, data + NET_HDR_LEN, len);
	out_bytes = out_frames = 0;
	int rc = net_offload(hdr, frame, len, 1514, &o);
	BUG_ON(rc < 0 ? out_frames != 0 : out_frames == 0);
	/* Headers are repeated; 48 bytes of data go with each at least, but for the last. */
	BUG_ON(out_frames > len / 48 + 1 || out_bytes > len + out_frames * 134);
	free(frame);
	return 0;
}
