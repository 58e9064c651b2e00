/* a * b + c, each rounded: a compiler may not contract what goes through a volatile. */
static float multiply_add(float a, float b, float c) {
  volatile float product = a * b;
  volatile float sum = product + c;
  return sum;
}
