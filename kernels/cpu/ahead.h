/* Memory that is read soon, fetched into the second-level cache a few lines at a time: what the processor's own guesses,
 * which end with a page of 4 KiB, do not find. */
#ifndef XPC_AHEAD_H
#define XPC_AHEAD_H

#include "geometry.h"
#include "stream.h"

typedef struct {
    const char *from;
    ptrdiff_t channel, length; /* bytes from channel (or row) to channel, and of one */
    ptrdiff_t left, at;        /* channels, and bytes of the first of them that are done */
} xpc_ahead;

XPC_INLINE void xpc_fetch(xpc_ahead *next, int lines)
{
    for (; lines > 0 && next->left > 0; lines--) {
        XPC_SOON_NEAR(next->from + next->at);
        next->at += 64;
        if (next->at >= next->length) {
            next->at = 0;
            next->left--;
            next->from += next->channel;
        }
    }
}

#endif
