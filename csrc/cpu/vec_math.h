// exp and tanh on a Vec. Include after one vec_<isa>.h, with FASTPREF_ISA naming its namespace; each of those provides
//   Vec, kLanes, set1, add, sub, mul, div, fmadd, abs, copysign, reduce_add, reduce_max
//   max(a, b)                     returns b where either is NaN
//   select_less(a, b, yes, no)    yes where a < b; no elsewhere, also where either is NaN
//   split_exponent, scale_by_exponent   y = floor(y) + fraction and p * 2^floor(y)
//   stream2                       store2 past the caches, to an address aligned to a Vec; stream_fence() orders such stores
//   load2, store2                 2 * kLanes elements of a storage type. The lane order of a 16-bit type is free (bf16
//                                 takes even and odd elements apart); store2 undoes load2. A NaN to be stored as bf16
//                                 must have some low mantissa bit clear, which the NaNs of arithmetic have.
#pragma once

#include "../core/math_constants.h"

namespace fastpref {
namespace FASTPREF_ISA {

// e^d times a constant, which is free as a factor of the polynomial. Relative error 1.5e-7 (1.7e-7 without fma), and
// 7.5e-8 for each unit of |d|, because d log2(e) is rounded. 0 at -inf; NaN stays NaN; results below 2^-126 may be
// flushed to 0.
struct ScaledExp {
  Vec c0, c1, c2, c3, c4, c5;

  explicit ScaledExp(float k)
      : c0(set1(k)),
        c1(set1(k * kExp2P0)),
        c2(set1(k * kExp2P1)),
        c3(set1(k * kExp2P2)),
        c4(set1(k * kExp2P3)),
        c5(set1(k * kExp2P4)) {}

  Vec operator()(Vec d) const {
    Vec f;
    const Exponent e = split_exponent(mul(d, set1(kLog2E)), &f);
    Vec p = fmadd(c5, f, c4);
    p = fmadd(p, f, c3);
    p = fmadd(p, f, c2);
    p = fmadd(p, f, c1);
    p = fmadd(p, f, c0);
    return scale_by_exponent(p, e);
  }
};

// tanh(u), and 1 - tanh(u)^2 without cancellation where tanh saturates.
// Small |u| takes an odd polynomial; the rest 1 - q with q = 2 / (e^(2|u|) + 1), whose square complement is q (2 - q).
FASTPREF_FN Vec tanh(Vec u, Vec* one_minus_square) {
  const Vec a = abs(u), one = set1(1.0f), two = set1(2.0f), small = set1(kTanhSmall);
  const Vec q = div(two, add(ScaledExp(1.0f)(add(a, a)), one));
  const Vec square = mul(a, a);
  Vec p = fmadd(set1(kTanhP5), square, set1(kTanhP4));
  p = fmadd(p, square, set1(kTanhP3));
  p = fmadd(p, square, set1(kTanhP2));
  p = fmadd(p, square, set1(kTanhP1));
  p = fmadd(p, square, set1(kTanhP0));
  p = fmadd(mul(p, square), a, a);
  *one_minus_square = select_less(a, small, sub(one, mul(p, p)), mul(q, sub(two, q)));
  return copysign(select_less(a, small, p, sub(one, q)), u);
}

}  // namespace FASTPREF_ISA
}  // namespace fastpref
