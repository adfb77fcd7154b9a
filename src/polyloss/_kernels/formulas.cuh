// The formulas of formulas.h and rowwise_formulas.h as static functions of Formulas<float> and Formulas<double>.
#pragma once
#include "device.cuh"

template <class A> struct Formulas;
#define MASK bool
#define one real
#define FORMULA(name) name
#define real float
template <> struct Formulas<float> {
#include "formulas.h"
#include "rowwise_formulas.h"
};
#undef real
#define real double
template <> struct Formulas<double> {
#include "formulas.h"
#include "rowwise_formulas.h"
};
#undef real
#undef FORMULA
#undef one
#undef MASK
