/* The pool: spin for a moment, then sleep; survive fork; never wait for a worker that has not joined.
 *
 *     caller                                    worker
 *     ------                                    ------
 *     publish the task, seats = helpers wanted  spin until `generation` changes, then sleep on `work`
 *     take chunks until none is left    <---->  seats > 0: take a seat, then chunks until none is left
 *     close the task: seats = 0                 leave the seat
 *     wait until nobody sits any more   <----   (a worker that comes late finds no seat and goes back to sleep)
 *
 * A busy machine may wake a worker milliseconds late; as the caller only waits for those who sat down, such a worker
 * costs nothing. Chunks are handed out by one atomic number. Who sleeps is kept off the processors of the others before
 * it is woken: see placement.h.
 */
#ifdef XPC_THREADS
#include "placement.h"
#endif
#include "geometry.h"
#include "threads.h"

typedef struct {
    xpc_items_fn fn;
    const void *job;
} work;

typedef struct {
    xpc_rows_fn fn;
    const void *job;
    ptrdiff_t rows;
} rows_work;

/* Items [begin, end), counted plane by plane and row by row. */
static void run_rows(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const rows_work *w = argument;
    (void)slot;
    while (begin < end) {
        ptrdiff_t plane = begin / w->rows, row = begin % w->rows;
        ptrdiff_t count = w->rows - row < end - begin ? w->rows - row : end - begin;
        w->fn(w->job, plane, row, row + count);
        begin += count;
    }
}

#ifdef XPC_THREADS

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

enum {
    CHUNK_COST = 16384,    /* elements: several microseconds, well above the cost of taking a chunk */
    PARALLEL_COST = 65536, /* below this a call is over before a sleeping worker is awake */
    LARGEST_PART = 2,      /* the largest chunk is a half of what is left for each thread; more, and slow threads end late */
    SMALLEST_PART = 16,    /* the smallest is a sixteenth of a thread's part of all; less, and kernels fetch too little ahead */
    HELPER_SPINS = 100000, /* nanoseconds; waking it takes 30 to 80 microseconds, the next call often begins sooner */
    CALLER_SPINS = 200000, /* it has nothing else to do, and who is woken by a helper often shares its processor */
    MOST_SPREAD = 16,      /* helpers: two system calls for each would take longer than they gain */
    MAX_THREADS = 1024
};

typedef struct {
    work what;
    ptrdiff_t items, least, shares; /* a chunk is one of so many shares of what is left, but no less than `least` items */
    _Atomic ptrdiff_t next;
} task;

static struct {
    pthread_mutex_t lock; /* guards all members but the atomics' readers */
    pthread_cond_t work;  /* workers sleep here */
    pthread_cond_t done;  /* the caller sleeps here */
    int started, sleeping, seats, caller_sleeps;
    unsigned spread; /* how often a helper was kept off a processor */
    task *current;
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0, 0, 0, NULL};

typedef struct {
    pthread_t thread;
    unsigned seen;          /* the generation of the last task it knows of */
    int asleep, processor;  /* where it ran last */
    int kept_off;           /* it is being woken with fewer processors than these */
    xpc_processors allowed;
} helper;

static helper helpers_by_number[MAX_THREADS]; /* guarded by the lock */

static atomic_uint generation; /* changes with every task; workers spin on it */
static atomic_int seated;      /* workers inside the current task; the caller spins on it */
static atomic_int busy;        /* one caller at a time; others work alone */
static atomic_int num_threads = 1;

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ __volatile__("yield");
#endif
}

static long long nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Large chunks first, as neighbouring items often share what is in a cache, and small ones last, so that all threads end at
 * about the same time (Polychronopoulos and Kuck, Guided self-scheduling, IEEE Trans. Computers 36, 1987). */
static void take_chunks(task *t, int slot)
{
    ptrdiff_t begin = atomic_load(&t->next);
    while (begin < t->items) {
        ptrdiff_t left = t->items - begin, chunk = xpc_min(xpc_max(left / t->shares, t->least), left);
        if (!atomic_compare_exchange_weak(&t->next, &begin, begin + chunk))
            continue; /* another thread took it; `begin` is what is next now */
        t->what.fn(t->what.job, begin, begin + chunk, slot);
        begin = atomic_load(&t->next);
    }
}

static void *worker(void *argument)
{
    helper *self = argument;
    unsigned seen = self->seen;
    for (;;) {
        long long deadline = nanoseconds() + HELPER_SPINS;
        while (atomic_load(&generation) == seen && nanoseconds() < deadline)
            for (int i = 0; i < 32 && atomic_load(&generation) == seen; i++)
                relax();
        pthread_mutex_lock(&pool.lock);
        while (atomic_load(&generation) == seen) {
            pool.sleeping++;
            self->asleep = 1;
            self->processor = xpc_processor();
            pthread_cond_wait(&pool.work, &pool.lock);
            self->asleep = 0;
            pool.sleeping--;
        }
        seen = atomic_load(&generation);
        task *t = pool.seats > 0 ? pool.current : NULL;
        int slot = t ? pool.seats-- : 0; /* counts down to 1; the caller has 0 */
        int was_kept_off = self->kept_off;
        self->kept_off = 0;
        self->processor = xpc_processor();
        if (t)
            atomic_fetch_add(&seated, 1);
        pthread_mutex_unlock(&pool.lock);
        if (was_kept_off) /* nobody else touches this while it is awake */
            xpc_allow_processors(&self->allowed);
        if (!t)
            continue;
        take_chunks(t, slot);
        pthread_mutex_lock(&pool.lock);
        if (atomic_fetch_sub(&seated, 1) == 1 && pool.caller_sleeps)
            pthread_cond_signal(&pool.done);
        pthread_mutex_unlock(&pool.lock);
    }
    return NULL;
}

/* Fork copies the memory but not the workers: the child starts with an empty pool. The lock is held across the fork,
 * so that the copy is not one from the middle of a change. */
static void before_fork(void)
{
    pthread_mutex_lock(&pool.lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&pool.lock);
}

static void after_fork_in_child(void)
{
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.work, NULL);
    pthread_cond_init(&pool.done, NULL);
    pool.started = pool.sleeping = pool.seats = pool.caller_sleeps = 0;
    pool.current = NULL;
    atomic_store(&seated, 0);
    atomic_store(&busy, 0);
}

static void register_fork_handlers(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* Become the one caller; false if there is one. A fork may leave the child without the thread that would let go. */
static int claim(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handlers);
    return !atomic_exchange(&busy, 1);
}

/* With the lock held. Signals stay with the threads of the program: Python handles them in its main thread. */
static void start_workers(int wanted)
{
    sigset_t all, previous;
    if (pool.started >= wanted)
        return;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    while (pool.started < wanted) {
        helper *new = &helpers_by_number[pool.started];
        new->seen = atomic_load(&generation);
        new->asleep = new->kept_off = 0;
        new->processor = -1;
        if (pthread_create(&new->thread, NULL, worker, new))
            break; /* a limit of the system: go on with those there are */
        pthread_detach(new->thread);
        pool.started++;
    }
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
}

/* With the lock held: those who are asleep are to wake where neither the caller nor another helper works, as far as is
 * known. */
static void spread_sleepers(int wanted)
{
    xpc_processors taken, allowed;
    if (wanted > MOST_SPREAD || !xpc_allowed_processors(&allowed))
        return;
    xpc_no_processors(&taken);
    xpc_add_processor(&taken, xpc_processor());
    for (int n = 0; n < pool.started; n++)
        if (!helpers_by_number[n].asleep)
            xpc_add_processor(&taken, helpers_by_number[n].processor);
    for (int n = 0; n < pool.started && wanted > 0; n++) {
        helper *h = &helpers_by_number[n];
        if (!h->asleep)
            continue;
        if (xpc_keep_off(h->thread, &allowed, &taken)) {
            h->allowed = allowed;
            h->kept_off = 1;
            pool.spread++;
        }
        xpc_add_processor(&taken, h->processor);
        wanted--;
    }
}

static void run_with_helpers(task *t, int helpers)
{
    pthread_mutex_lock(&pool.lock);
    start_workers(helpers);
    pool.current = t;
    pool.seats = helpers;
    atomic_fetch_add(&generation, 1);
    if (pool.sleeping) {
        spread_sleepers(helpers);
        pthread_cond_broadcast(&pool.work);
    }
    pthread_mutex_unlock(&pool.lock);

    take_chunks(t, 0);

    pthread_mutex_lock(&pool.lock);
    pool.seats = 0;
    pool.current = NULL;
    pthread_mutex_unlock(&pool.lock);
    if (!atomic_load(&seated))
        return;
    long long deadline = nanoseconds() + CALLER_SPINS;
    while (nanoseconds() < deadline)
        for (int i = 0; i < 32; i++) {
            if (!atomic_load(&seated))
                return;
            relax();
        }
    pthread_mutex_lock(&pool.lock);
    pool.caller_sleeps = 1;
    while (atomic_load(&seated))
        pthread_cond_wait(&pool.done, &pool.lock);
    pool.caller_sleeps = 0;
    pthread_mutex_unlock(&pool.lock);
}

int xpc_slots(ptrdiff_t items, ptrdiff_t item_cost)
{
    int threads = atomic_load(&num_threads);
    /* divided, not multiplied: items * item_cost may exceed the range of the type */
    if (items < 2 || items < PARALLEL_COST / (item_cost < 1 ? 1 : item_cost))
        return 1;
    return items < threads ? (int)items : threads;
}

void xpc_parallel_items(xpc_items_fn fn, const void *job, ptrdiff_t items, ptrdiff_t item_cost, int slots)
{
    if (items <= 0)
        return;
    if (slots < 2 || !claim()) {
        fn(job, 0, items, 0);
        return;
    }
    if (item_cost < 1)
        item_cost = 1;
    ptrdiff_t least = xpc_max(xpc_max(CHUNK_COST / item_cost, items / ((ptrdiff_t)slots * SMALLEST_PART)), 1);
    task t = {{fn, job}, items, least, (ptrdiff_t)slots * LARGEST_PART, 0};
    ptrdiff_t chunks = xpc_ceil_div(items, t.least); /* at the most */
    run_with_helpers(&t, (int)(chunks < slots ? chunks - 1 : slots - 1));
    atomic_store(&busy, 0);
}

void xpc_set_num_threads(int number)
{
    atomic_store(&num_threads, number < 1 ? 1 : number > MAX_THREADS ? MAX_THREADS : number);
}

int xpc_get_num_threads(void)
{
    return atomic_load(&num_threads);
}

int xpc_claim_pool(void)
{
    return claim();
}

unsigned xpc_spread_helpers(void)
{
    pthread_mutex_lock(&pool.lock);
    unsigned spread = pool.spread;
    pthread_mutex_unlock(&pool.lock);
    return spread;
}

void xpc_release_pool(void)
{
    atomic_store(&busy, 0);
}

int xpc_has_threads(void)
{
    return 1;
}

#else /* serial */

int xpc_slots(ptrdiff_t items, ptrdiff_t item_cost)
{
    (void)items, (void)item_cost;
    return 1;
}

void xpc_parallel_items(xpc_items_fn fn, const void *job, ptrdiff_t items, ptrdiff_t item_cost, int slots)
{
    (void)item_cost, (void)slots;
    if (items > 0)
        fn(job, 0, items, 0);
}

void xpc_set_num_threads(int number)
{
    (void)number;
}

int xpc_get_num_threads(void)
{
    return 1;
}

int xpc_claim_pool(void)
{
    return 0;
}

unsigned xpc_spread_helpers(void)
{
    return 0;
}

void xpc_release_pool(void)
{
}

int xpc_has_threads(void)
{
    return 0;
}

#endif

void xpc_parallel_rows(xpc_rows_fn fn, const void *job, ptrdiff_t planes, ptrdiff_t rows, ptrdiff_t row_cost)
{
    rows_work what = {fn, job, rows};
    if (rows > 0)
        xpc_parallel_items(run_rows, &what, planes * rows, row_cost, xpc_slots(planes * rows, row_cost));
}
