// The formulas of formulas/elementwise.h and formulas/rowwise.h as static functions of Formulas<float> and Formulas<double>.
#pragma once
#include "gpu/device.cuh"

template <class A> struct Formulas;
#define MASK bool
#define one real
#define FORMULA(name) name
#define real float
template <> struct Formulas<float> {
#include "formulas/elementwise.h"
#include "formulas/rowwise.h"
};
#undef real
#define real double
template <> struct Formulas<double> {
#include "formulas/elementwise.h"
#include "formulas/rowwise.h"
};
#undef real
#undef FORMULA
#undef one
#undef MASK
