/* Sizes for `stream_impl.h`, and a hint that memory is read soon. */
#ifndef XPC_STREAM_H
#define XPC_STREAM_H

enum {
    BLOCK = 256,             /* numbers made at a time: they stay in the first cache, and calls do not count yet */
    STREAMED_BYTES = 2 << 20 /* results from here on: no smaller than the second cache of today's cores */
};

/* On the stack, for BLOCK numbers. */
#if defined(_MSC_VER)
#define XPC_LINE_ALIGNED __declspec(align(64))
#else
#define XPC_LINE_ALIGNED __attribute__((aligned(64)))
#endif

/* The processor's own guesses end with a page of 4 KiB; an address beyond an array does no harm. */
#ifdef __GNUC__
#define XPC_SOON(address) __builtin_prefetch(address)
#define XPC_SOON_NEAR(address) __builtin_prefetch(address, 0, 2) /* into the second-level cache */
#else
#define XPC_SOON(address) ((void)0)
#define XPC_SOON_NEAR(address) ((void)0)
#endif

#endif
