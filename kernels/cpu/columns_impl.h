/* Included once for each type by columns.c, which defines REAL and NAME. */

typedef struct {
    xpc_array4 x;
    xpc_array6 cols;
    xpc_axis vertical, horizontal;
    int accumulate;
} NAME(columns_job);

/* Output rows [row_begin, row_end) of the columns of one tap of one channel. */
XPC_CLONES
static void NAME(im2col_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(columns_job) *job = argument;
    const xpc_array4 *x = &job->x;
    const xpc_array6 *cols = &job->cols;
    xpc_axis vertical = job->vertical, horizontal = job->horizontal;
    ptrdiff_t height = x->shape[2], width = x->shape[3], out_w = cols->shape[5];
    ptrdiff_t j = plane % horizontal.kernel, rest = plane / horizontal.kernel;
    ptrdiff_t i = rest % vertical.kernel;
    rest /= vertical.kernel;
    ptrdiff_t c = rest % x->shape[1], n = rest / x->shape[1];
    const char *from = x->data + n * x->strides[0] + c * x->strides[1];
    char *to = cols->data + n * cols->strides[0] + c * cols->strides[1] + i * cols->strides[2] + j * cols->strides[3];
    ptrdiff_t from_row = x->strides[2], from_step = x->strides[3] * horizontal.stride;
    ptrdiff_t to_row = cols->strides[4], to_step = cols->strides[5];

    /* inside these ranges the tap sees the image, outside it sees padding */
    xpc_range rows = xpc_outputs(vertical, i, 0, height, row_begin, row_end);
    xpc_range inside = xpc_outputs(horizontal, j, 0, width, 0, out_w);
    if (inside.begin == inside.end)
        rows.end = rows.begin;
    for (ptrdiff_t p = row_begin; p < rows.begin; p++)
        NAME(fill_zero)(to + p * to_row, to_step, out_w);
    for (ptrdiff_t p = rows.end; p < row_end; p++)
        NAME(fill_zero)(to + p * to_row, to_step, out_w);
    if (rows.begin == rows.end)
        return;

    ptrdiff_t count = inside.end - inside.begin, lines = rows.end - rows.begin;
    from += (rows.begin * vertical.stride + i * vertical.dilation - vertical.pad) * from_row +
            (inside.begin * horizontal.stride + j * horizontal.dilation - horizontal.pad) * x->strides[3];
    to += rows.begin * to_row;
    if (from_row * vertical.stride == to_row && to_row == out_w * (ptrdiff_t)sizeof(REAL) &&
        from_step == sizeof(REAL) && to_step == sizeof(REAL) && out_w == width) {
        /* Both sides have the same pitch: the tap sees the whole image shifted, one block of memory. What ran over the
         * ends of the rows is then set to zero. */
        memcpy(to + inside.begin * to_step, from, (size_t)((lines - 1) * out_w + count) * sizeof(REAL));
        if (count < out_w)
            for (ptrdiff_t line = 0; line < lines; line++) {
                NAME(fill_zero)(to + line * to_row, to_step, inside.begin);
                NAME(fill_zero)(to + line * to_row + inside.end * to_step, to_step, out_w - inside.end);
            }
        return;
    }
    for (ptrdiff_t line = 0; line < lines; line++) {
        NAME(fill_zero)(to, to_step, inside.begin);
        NAME(copy)(to + inside.begin * to_step, to_step, from, from_step, count);
        NAME(fill_zero)(to + inside.end * to_step, to_step, out_w - inside.end);
        from += from_row * vertical.stride;
        to += to_row;
    }
}

void NAME(xpc_im2col)(const xpc_array4 *x, const xpc_array6 *cols, xpc_axis vertical, xpc_axis horizontal)
{
    NAME(columns_job) job = {*x, *cols, vertical, horizontal, 0};
    ptrdiff_t planes = x->shape[0] * x->shape[1] * vertical.kernel * horizontal.kernel;
    xpc_parallel_rows(NAME(im2col_rows), &job, planes, cols->shape[4], cols->shape[5]);
}

/* Rows [row_begin, row_end) of one image of one channel: gathers, so that rows are independent of each other. */
XPC_CLONES
static void NAME(col2im_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(columns_job) *job = argument;
    const xpc_array4 *x = &job->x;
    const xpc_array6 *cols = &job->cols;
    xpc_axis vertical = job->vertical, horizontal = job->horizontal;
    ptrdiff_t width = x->shape[3], out_h = cols->shape[4], out_w = cols->shape[5];
    ptrdiff_t c = plane % x->shape[1], n = plane / x->shape[1];
    char *to = x->data + n * x->strides[0] + c * x->strides[1];
    const char *from = cols->data + n * cols->strides[0] + c * cols->strides[1];
    ptrdiff_t band = xpc_max(1, BAND_BYTES / (ptrdiff_t)sizeof(REAL) / xpc_max(1, width));

    for (ptrdiff_t first = row_begin; first < row_end; first += band) {
        ptrdiff_t last = xpc_min(first + band, row_end);
        if (!job->accumulate)
            for (ptrdiff_t h = first; h < last; h++)
                NAME(fill_zero)(to + h * x->strides[2], x->strides[3], width);
        for (ptrdiff_t i = 0; i < vertical.kernel; i++) {
            xpc_range rows = xpc_outputs(vertical, i, first, last, 0, out_h);
            if (rows.begin == rows.end)
                continue;
            for (ptrdiff_t j = 0; j < horizontal.kernel; j++) {
                xpc_range inside = xpc_outputs(horizontal, j, 0, width, 0, out_w);
                if (inside.begin == inside.end)
                    continue;
                ptrdiff_t h = rows.begin * vertical.stride + i * vertical.dilation - vertical.pad;
                ptrdiff_t w = inside.begin * horizontal.stride + j * horizontal.dilation - horizontal.pad;
                char *target = to + h * x->strides[2] + w * x->strides[3];
                const char *source = from + i * cols->strides[2] + j * cols->strides[3] +
                                     rows.begin * cols->strides[4] + inside.begin * cols->strides[5];
                for (ptrdiff_t p = rows.begin; p < rows.end; p++) {
                    NAME(add)(target, x->strides[3] * horizontal.stride, source, cols->strides[5],
                              inside.end - inside.begin);
                    target += x->strides[2] * vertical.stride;
                    source += cols->strides[4];
                }
            }
        }
    }
}

void NAME(xpc_col2im)(const xpc_array6 *cols, const xpc_array4 *x, xpc_axis vertical, xpc_axis horizontal,
                      int accumulate)
{
    NAME(columns_job) job = {*x, *cols, vertical, horizontal, accumulate};
    ptrdiff_t taps = vertical.kernel * horizontal.kernel;
    ptrdiff_t overlap = xpc_max(1, taps / (vertical.stride * horizontal.stride));
    xpc_parallel_rows(NAME(col2im_rows), &job, x->shape[0] * x->shape[1], x->shape[2], x->shape[3] * overlap);
}
