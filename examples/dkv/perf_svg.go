package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// The plot has percentiles from left to right, so that each nine takes as much room
// as the one before, and latencies from below to above, each power of ten likewise.
const (
	plotLeft, plotTop     = 70, 40
	plotWidth, plotHeight = 640, 380
	legendWidth           = 170
	plotNines             = 4 // up to 99.99
)

var plotColors = []string{"#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#6a4c93", "#00798c", "#8d5524"}

// perfSVG draws a line for each test.
func perfSVG(results []perfResult) []byte {
	least, most := decades(results)
	x := func(percent float64) float64 {
		nines := -math.Log10(1 - percent/100)
		return plotLeft + nines/plotNines*plotWidth
	}
	y := func(d time.Duration) float64 {
		at := (math.Log10(float64(max(1, d))) - float64(least)) / float64(most-least)
		return plotTop + (1-at)*plotHeight
	}
	var b bytes.Buffer
	width, height := plotLeft+plotWidth+legendWidth, plotTop+plotHeight+60
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="20" font-size="15">Latency by percentile</text>`+"\n", plotLeft)
	line := func(x1, y1, x2, y2 float64) {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ddd"/>`+"\n", x1, y1, x2, y2)
	}
	text := func(x, y float64, anchor, s string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(s))
	}
	for e := least; e <= most; e++ {
		at := y(decade(e))
		line(plotLeft, at, plotLeft+plotWidth, at)
		text(plotLeft-6, at+4, "end", decade(e).String())
	}
	for _, percent := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		line(x(percent), plotTop, x(percent), plotTop+plotHeight)
		text(x(percent), plotTop+plotHeight+18, "middle", fmt.Sprintf("%g%%", percent))
	}
	for i, r := range results {
		color := plotColors[i%len(plotColors)]
		if r.ops > 0 {
			fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>`+"\n", color, plotPoints(r, x, y))
		}
		at := float64(plotTop + 10 + 34*i)
		fmt.Fprintf(&b, `<rect x="%d" y="%.1f" width="12" height="12" fill="%s"/>`+"\n", plotLeft+plotWidth+16, at, color)
		text(plotLeft+plotWidth+34, at+10, "start", r.test)
		text(plotLeft+plotWidth+34, at+24, "start", fmt.Sprintf("%.0f/s", r.perSecond()))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// plotPoints are those of one line.
func plotPoints(r perfResult, x func(float64) float64, y func(time.Duration) float64) string {
	const steps = 160
	var points []string
	for i := range steps + 1 {
		percent := 100 * (1 - math.Pow(10, -float64(plotNines*i)/steps))
		points = append(points, fmt.Sprintf("%.1f,%.1f", x(percent), y(r.quantile(percent))))
	}
	return strings.Join(points, " ")
}
