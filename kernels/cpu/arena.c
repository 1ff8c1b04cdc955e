/* Blocks in lists by size, the size of a block in the 64 bytes before it:
 *
 *     system's block    | header (64) | what the caller gets, rounded up to a size of its list ... |
 *
 * Sizes are four to each power of two, so that at most a fifth of a block is not needed and neighbouring sizes meet in
 * one list. All blocks together never take much more than what was in use at once at some time: before a new block is had
 * from the system, those that have lain about longest go back to it.
 */
#include "arena.h"

#include <stdint.h>
#include <stdlib.h>

#ifdef XPC_THREADS
#include <pthread.h>
#elif defined(_MSC_VER)
#include <intrin.h>
#endif
#ifdef _WIN32
#include <malloc.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

enum {
    HEADER = 64,      /* bytes; also the alignment */
    SMALLEST = 12,    /* log2 of the smallest size */
    STEPS = 4,        /* sizes in a power of two */
    LISTS = 40 * STEPS,
    HUGE_PAGE = 2 << 20,
    SLACK = 32 << 20  /* bytes beyond the most that were in use at once, and an eighth of that */
};

typedef struct block {
    struct block *next;
    size_t bytes;
    unsigned long long given; /* its number among all that came back */
    int list;
} block;

static block *lists[LISTS]; /* newest first: it is still in a cache */
static size_t used_bytes, kept_bytes;
static size_t most_bytes; /* in use at once */
static unsigned long long gifts;

/* ---- the lock ----------------------------------------------------------------------------------------------------- */

#ifdef XPC_THREADS

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void lock(void)
{
    pthread_mutex_lock(&mutex);
}

static void unlock(void)
{
    pthread_mutex_unlock(&mutex);
}

static void renew(void)
{
    pthread_mutex_init(&mutex, NULL);
}

/* Held across a fork, so that the child's lists are not from the middle of a change. */
static void register_fork_handlers(void)
{
    pthread_atfork(lock, unlock, renew);
}

static void enter(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handlers);
    lock();
}

#elif defined(_MSC_VER)

static volatile long taken;

static void enter(void)
{
    while (_InterlockedExchange(&taken, 1))
        _mm_pause();
}

static void unlock(void)
{
    _InterlockedExchange(&taken, 0);
}

#else /* a build without threads: Python's own lock is held by whoever calls */

static void enter(void)
{
}

static void unlock(void)
{
}

#endif

/* ---- blocks of the system ------------------------------------------------------------------------------------------- */

static block *from_system(size_t bytes)
{
    block *fresh;
#ifdef _WIN32
    fresh = _aligned_malloc(bytes + HEADER, HEADER);
#else
    int large = bytes >= 2 * (size_t)HUGE_PAGE;
    void *memory = NULL;
    if (posix_memalign(&memory, large ? HUGE_PAGE : HEADER, bytes + HEADER))
        return NULL;
    fresh = memory;
#ifdef __linux__
    if (large) /* a fault for every 2 MiB instead of every 4 KiB, and fewer misses in the table of pages */
        madvise(memory, (bytes + HEADER) / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
#endif
    return fresh;
}

static void to_system(block *old)
{
#ifdef _WIN32
    _aligned_free(old);
#else
    free(old);
#endif
}

/* The list for `bytes`, -1 if there is none, and the size of its blocks. */
static int find_list(size_t bytes, size_t *rounded)
{
    int list = 0;
    for (int power = SMALLEST; power < SMALLEST + LISTS / STEPS && power < (int)sizeof(size_t) * 8 - 1; power++)
        for (int step = 0; step < STEPS; step++, list++) {
            size_t size = ((size_t)1 << power) + ((size_t)step << power) / STEPS;
            if (bytes <= size) {
                *rounded = size;
                return list;
            }
        }
    return -1;
}

/* With the lock held: so many bytes more are in use. */
static void use(size_t bytes)
{
    used_bytes += bytes;
    if (used_bytes > most_bytes)
        most_bytes = used_bytes;
}

/* With the lock held: the oldest blocks off the lists, until at most `limit` bytes are kept, as a chain. */
static block *drop(size_t limit)
{
    block *dropped = NULL;
    while (kept_bytes > limit) {
        block **oldest = NULL;
        for (int list = 0; list < LISTS; list++) {
            block **at = &lists[list];
            if (!*at)
                continue;
            while ((*at)->next)
                at = &(*at)->next;
            if (!oldest || (*at)->given < (*oldest)->given)
                oldest = at;
        }
        block *out = *oldest;
        *oldest = NULL;
        kept_bytes -= out->bytes;
        out->next = dropped;
        dropped = out;
    }
    return dropped;
}

static size_t release(block *chain)
{
    size_t bytes = 0;
    while (chain) {
        block *next = chain->next;
        bytes += chain->bytes;
        to_system(chain);
        chain = next;
    }
    return bytes;
}

/* ---- the interface ---------------------------------------------------------------------------------------------------- */

void *xpc_arena_take(size_t bytes)
{
    size_t rounded = 0;
    int list = find_list(bytes, &rounded);
    if (list < 0)
        return NULL;
    enter();
    block *found = NULL, *old = NULL;
#ifndef XPC_FRESH_MEMORY /* builds with a sanitizer, which watches over the system's blocks */
    found = lists[list];
#endif
    if (found) {
        lists[list] = found->next;
        kept_bytes -= rounded;
        use(rounded);
    } else {
        size_t needed = used_bytes + rounded, most = needed > most_bytes ? needed : most_bytes;
        old = drop(most + most / 8 + SLACK - needed);
    }
    unlock();
    if (found)
        return (char *)found + HEADER;
    release(old);
    found = from_system(rounded);
    if (!found && xpc_arena_trim())
        found = from_system(rounded);
    if (!found)
        return NULL;
    found->bytes = rounded;
    found->list = list;
    enter();
    use(rounded);
    unlock();
    return (char *)found + HEADER;
}

void xpc_arena_give(void *memory)
{
    if (!memory)
        return;
    block *back = (block *)((char *)memory - HEADER);
#ifdef XPC_FRESH_MEMORY
    enter();
    used_bytes -= back->bytes;
    unlock();
    to_system(back);
#else
    enter();
    used_bytes -= back->bytes;
    kept_bytes += back->bytes;
    back->given = ++gifts;
    back->next = lists[back->list];
    lists[back->list] = back;
    unlock();
#endif
}

size_t xpc_arena_trim(void)
{
    enter();
    block *all = drop(0);
    most_bytes = used_bytes; /* what was needed once may never be needed again */
    unlock();
    return release(all);
}

void xpc_arena_sizes(size_t *used, size_t *kept)
{
    enter();
    *used = used_bytes;
    *kept = kept_bytes;
    unlock();
}
