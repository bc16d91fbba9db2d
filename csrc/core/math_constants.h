// Polynomials shared by every kernel. Both are relative minimax fits whose coefficients were rounded to fp32 jointly.
#pragma once

namespace fastpref {

constexpr float kLog2E = 1.44269504088896341f;

// 2^f = 1 + f * P(f) on [0, 1): relative error 8.6e-8, 1.5e-7 with the roundings of fp32 arithmetic; exact at f = 0.
constexpr float kExp2P0 = 0.693151295f;
constexpr float kExp2P1 = 0.240164459f;
constexpr float kExp2P2 = 0.0557999164f;
constexpr float kExp2P3 = 0.00901703071f;
constexpr float kExp2P4 = 0.0018671304f;

// tanh(a) = a + a * s * P(s) with s = a^2, on |a| < kTanhSmall: relative error 4e-9 before rounding.
constexpr float kTanhSmall = 0.8f;
constexpr float kTanhP0 = -0.333332974f;
constexpr float kTanhP1 = 0.133322210f;
constexpr float kTanhP2 = -0.0538523317f;
constexpr float kTanhP3 = 0.0213029932f;
constexpr float kTanhP4 = -0.00740955737f;
constexpr float kTanhP5 = 0.00158475615f;

}  // namespace fastpref
